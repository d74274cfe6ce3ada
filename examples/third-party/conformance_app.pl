#!/usr/bin/env perl
# What `emit conformance` tests Emit.pm with: the nodes of tests/conformance/README.md.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Emit;

$| = 1;

sub pause { select undef, undef, undef, $_[0] }

Emit::node(echo => sub { my ($msg, $emit) = @_; $emit->($msg->{value}) });
Emit::node(none => sub { });
Emit::node(count => sub { my ($msg, $emit) = @_; $emit->($_) for 0 .. $msg->{n} - 1 });
Emit::node(text => sub { my ($msg, $emit) = @_; $emit->('x' x $msg->{n}) });
Emit::node(slow => sub { my ($msg, $emit) = @_; pause($msg->{seconds}); $emit->($msg->{value}) });
Emit::node(fail => sub { my ($msg) = @_; die "$msg->{text}\n" });

Emit::node(partial => sub {
    my ($msg, $emit) = @_;
    $emit->($_) for 0 .. $msg->{n} - 1;
    die "$msg->{text}\n";
});

Emit::node(print => sub {
    my ($msg, $emit) = @_;
    print $msg->{text};
    system 'printf', '%s', $msg->{text};
    $emit->('printed');
});

my %bad = (
    nan => 9**9**9 / 9**9**9,
    infinity => 9**9**9,
    surrogate => "\x{d800}",
    object => sub { },
);

Emit::node(bad => sub {
    my ($msg, $emit) = @_;
    my $value = $bad{ $msg->{what} };
    $emit->(defined $value ? { items => [0, { price => $value }] } : 'impossible');
});

Emit::node(native => sub { my $missing; use strict; my @items = @$missing });

Emit::node(stdin => sub {
    my ($msg, $emit) = @_;
    $emit->(join '', <STDIN>, scalar `cat`);
});

Emit::serve();
print STDERR "cleaned up\n";
