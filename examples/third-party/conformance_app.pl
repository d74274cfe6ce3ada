#!/usr/bin/env perl
# The program that tests Emit.pm by `emit conformance`: the nodes of tests/conformance/README.md.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Emit;
use POSIX ();

$| = 1;

my %chosen = map { $_ => 1 } split ',', $ENV{CONFORMANCE_NODES} // '';

sub node {
    my ($name, $handler) = @_;
    Emit::node($name => $handler) if !%chosen || $chosen{$name};
}

sub pause { select undef, undef, undef, $_[0] }

node(echo => sub { my ($msg, $emit) = @_; $emit->($msg->{value}) });
node(none => sub { });
node(count => sub { my ($msg, $emit) = @_; $emit->($_) for 0 .. $msg->{n} - 1 });
node(text => sub { my ($msg, $emit) = @_; $emit->('x' x $msg->{n}) });
node(slow => sub { my ($msg, $emit) = @_; pause($msg->{seconds}); $emit->($msg->{value}) });
node(fail => sub { my ($msg) = @_; die "$msg->{text}\n" });

node(partial => sub {
    my ($msg, $emit) = @_;
    $emit->($_) for 0 .. $msg->{n} - 1;
    die "$msg->{text}\n";
});

node(print => sub {
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

node(bad => sub {
    my ($msg, $emit) = @_;
    my $value = $bad{ $msg->{what} };
    $emit->(defined $value ? { items => [0, { price => $value }] } : 'impossible');
});

node(native => sub { my $missing; use strict; my @items = @$missing });

node(stdin => sub {
    my ($msg, $emit) = @_;
    $emit->(join '', <STDIN>, scalar `cat`);
});

node(deep => sub {
    my ($msg, $emit) = @_;
    my $value = [];
    $value = [$value] for 2 .. $msg->{n};
    $emit->($value);
});

node(exit => sub { exit });
node(leave => sub { POSIX::_exit(0) });

Emit::serve();
print STDERR "cleaned up\n";
