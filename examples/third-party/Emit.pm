# An SDK for Perl in one file, without other modules. It was written from runtimes/PROTOCOL.md alone,
# and is not part of Emit. It shows how a team adds a language that Emit does not know.
#
#     use lib '.';
#     use Emit;
#
#     Emit::node(count => sub {
#         my ($msg, $emit) = @_;
#         $emit->($_) for 0 .. $msg->{n} - 1;
#     });
#     Emit::serve();
#
# Left out: msgpack, concurrency, cancel, deadlines, logging, SIGTERM, the answer to a broken frame.
# One frame answers each call.

package Emit;

use strict;
use warnings;
no warnings 'recursion';

my ($wire, $out, %nodes, @names);
our $at_work;

# If a handler calls exit, only its message fails. This holds for code that is compiled after this.
BEGIN {
    *CORE::GLOBAL::exit = sub (;$) {
        my $status = shift // 0;
        die "the handler ended the process: exit($status)\n" if $at_work;
        CORE::exit($status);
    };
}

my ($buffer, $seen) = ('', 0);

# Register a handler. It takes the message, which is a hash, and a function that emits a result.
sub node {
    my ($name, $handler) = @_;
    push @names, $name;
    $nodes{$name} = $handler;
}

# Serve until the input ends.
sub serve {
    take_wire();
    my $first = exists $ENV{EMIT_MSG} ? $ENV{EMIT_MSG} : next_line();
    return unless ($first // '') =~ /\S/;
    my $probed = (delete $ENV{EMIT_PROBE} // '') eq '1';
    my $hello = eval { decode($first) };
    my $by_hand = $probed || exists $ENV{EMIT_MSG};    # a message may look like a hello
    my $framed = !$by_hand && ref $hello eq 'HASH' && ($hello->{op} // '') eq 'hello';
    return converse($hello) if $framed;
    exit 1 unless run_plain($first, defined $hello, $probed);
}

# The wire: private copies of descriptors 0 and 1, which no print and no child can touch. Perl closes
# all descriptors but 0, 1 and 2 when it starts a program.

sub take_wire {
    open $wire, '<&', \*STDIN  or die "cannot copy standard input: $!\n";
    open $out,  '>&', \*STDOUT or die "cannot copy standard output: $!\n";
    binmode $_ for $wire, $out;
    return if exists $ENV{EMIT_MSG};
    open STDIN,  '<',  '/dev/null' or die "cannot open /dev/null: $!\n";
    open STDOUT, '>&', \*STDERR    or die "cannot copy standard error: $!\n";
}

# Return the next line that is not blank; undef at the end.
sub next_line {
    while (1) {
        my $end = index $buffer, "\n", $seen;
        if ($end >= 0) {
            $seen = 0;
            my $line = substr $buffer, 0, $end + 1, '';
            return $line if $line =~ /\S/;
            next;
        }
        $seen = length $buffer;
        my $count = sysread $wire, $buffer, 65536, $seen;
        next if !defined $count && $!{EINTR};
        last unless $count;
    }
    my $rest = $buffer;
    $buffer = '';
    return $rest =~ /\S/ ? $rest : undef;
}

# The newline in front separates the frame from a stray print that did not end its line.
sub put { write_all("\n$_[0]\n") }

sub write_all {
    my ($data) = @_;
    while (length $data) {
        my $count = syswrite $out, $data;
        next if !defined $count && $!{EINTR};
        exit 1 unless $count;
        substr $data, 0, $count, '';
    }
}

# Under a host: frames.

sub converse {
    my ($hello) = @_;
    $SIG{INT} = 'IGNORE';
    if (!grep { $_ == 1 } @{ $hello->{v} }) {
        put(encode({ op => 'err', id => undef, type => 'Version', message => 'this is version 1' }));
        exit 1;
    }
    put(ready());
    while (defined(my $line = next_line())) {
        my $frame = decode($line);
        my $op = $frame->{op} // '';
        last if $op eq 'bye';
        put(encode({ op => 'pong', n => $frame->{n} })) if $op eq 'ping';
        put(answer($frame, $hello)) if $op eq 'call';
    }
}

sub ready {
    return encode({ op => 'ready', v => 1, sdk => 'perl-example/1', nodes => \@names, caps => ['end'] });
}

sub answer {
    my ($call, $hello) = @_;
    my $body = eval {
        my @results;
        run(handler($call->{node} // $hello->{node}), $call->{msg}, sub { push @results, @_ });
        my $texts = join ',', map { encode($_, 'result') } @results;
        my $body = qq({"op":"end","id":$call->{id},"msgs":[$texts]});
        my $size = length $body;
        die "$size bytes of results are over max_frame\n" if $size > $hello->{max_frame};
        $body;
    };
    return $body // failure($call->{id}, $@, $hello->{max_frame});
}

sub failure {
    my ($id, $error, $max_frame) = @_;
    my $text = "$error";
    chomp $text;
    $text =~ tr/\x{d800}-\x{dfff}/?/;
    $text = substr $text, 0, ($max_frame - 200) / 6;    # the err frame has to fit, too
    return encode({ op => 'err', id => $id, type => ref $error || 'die', message => $text });
}

# A program with one node serves it under any name.
sub handler {
    my ($name) = @_;
    return $nodes{ $names[0] } if @names == 1;
    die "set EMIT_NODE to one of: @names\n" unless length($name // '');
    return $nodes{$name} // die "there is no node $name here, only: @names\n";
}

sub run {
    my ($handler, $msg, $emit) = @_;
    local $at_work = 1;
    $handler->($msg, $emit);
}

# By hand: a message on each line, or one message over several lines; each result is a line of JSON.

sub run_plain {
    my ($line, $is_whole, $probed) = @_;
    my $failed = 0;
    put(ready()) if $probed;
    my $take = exists $ENV{EMIT_MSG} ? sub { undef } : \&next_line;
    while (!$is_whole && defined(my $more = $take->())) { $line .= $more }
    for (; defined $line; $line = $take->()) {
        my $emit = sub { write_all(encode($_, 'result') . "\n") for @_ };
        next if eval { run(handler($ENV{EMIT_NODE}), decode($line), $emit); 1 };
        print STDERR $@;
        exit 1 if $@ =~ /^the handler ended the process: /;
        $failed = 1;
    }
    return 0 if $failed;
    write_all(qq({"op":"end","id":null}\n)) if $probed;    # proves that no handler has ended the process
    return 1;
}

# JSON. true and false are \1 and \0, null is undef. A value is a number if it was last used as one.

my %escaped = (b => "\b", f => "\f", n => "\n", r => "\r", t => "\t");
my %words = (true => \1, false => \0, null => undef);

sub encode {
    my ($value, $path, $level) = ($_[0], $_[1] // '', $_[2] // 0);
    return 'null' unless defined $value;
    my $kind = ref $value;
    return $$value ? 'true' : 'false' if $kind eq 'SCALAR';
    die "$path nests deeper than 128 levels\n" if $kind && $level >= 128;
    if ($kind eq 'ARRAY') {
        my $at = 0;
        return '[' . join(',', map { encode($_, "$path\[" . $at++ . ']', $level + 1) } @$value) . ']';
    }
    if ($kind eq 'HASH') {
        my $pair = sub { quoted($_[0], $path) . ':' . encode($value->{ $_[0] }, "$path.$_[0]", $level + 1) };
        return '{' . join(',', map { $pair->($_) } sort keys %$value) . '}';
    }
    die "$path is a $kind, which JSON cannot carry\n" if $kind;
    return is_number($value) ? number($value, $path) : quoted($value, $path);
}

# A bitwise "and" with an empty text gives an empty text for a text, and a number for a number.
sub is_number {
    no warnings 'numeric';
    return !utf8::is_utf8($_[0]) && length((my $empty = '') & $_[0]);
}

sub number {
    my ($value, $path) = @_;
    die "$path is $value, which JSON cannot carry, but msgpack can\n" if $value =~ /nan|inf/i;
    return '-0.0' if sprintf('%g', $value) eq '-0';
    return $value =~ /^-?\d+\z/ ? "$value" : sprintf '%.17g', $value;
}

sub quoted {
    my ($text, $path) = @_;
    die "$path is no valid text: it holds a surrogate\n" if $text =~ /[\x{d800}-\x{dfff}]/;
    utf8::encode($text);
    $text =~ s/(["\\\x00-\x1f])/sprintf '\\u%04x', ord $1/ge;
    return qq("$text");
}

sub decode {
    my ($text) = @_;
    my $value = value(\$text);
    $text =~ /\G\s*/gc;
    die "this is no JSON, from byte " . pos($text) . " on\n" if pos($text) < length $text;
    return $value;
}

sub value {
    my ($text) = @_;
    $$text =~ /\G\s+/gc;
    return string($text) if $$text =~ /\G"/gc;
    return $1 eq '-0.0' ? -0.0 : $1 + 0 if $$text =~ /\G(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)/gc;
    return $words{$1} if $$text =~ /\G(true|false|null)/gc;
    return list($text) if $$text =~ /\G\[/gc;
    return map_of($text) if $$text =~ /\G\{/gc;
    die "this is no JSON, from byte " . (pos($$text) // 0) . " on\n";
}

sub list {
    my ($text) = @_;
    my @items;
    return \@items if $$text =~ /\G\s*\]/gc;
    do { push @items, value($text) } while $$text =~ /\G\s*,/gc;
    $$text =~ /\G\s*\]/gc or die "a list without an end\n";
    return \@items;
}

sub map_of {
    my ($text) = @_;
    my %map;
    return \%map if $$text =~ /\G\s*\}/gc;
    do {
        $$text =~ /\G\s*"/gc or die "a map without a key\n";
        my $key = string($text);
        $$text =~ /\G\s*:/gc or die "a key without a value\n";
        $map{$key} = value($text);
    } while $$text =~ /\G\s*,/gc;
    $$text =~ /\G\s*\}/gc or die "a map without an end\n";
    return \%map;
}

sub string {
    my ($text) = @_;
    my $found = '';
    while (1) {
        $found .= $1 if $$text =~ /\G([^"\\]+)/gc;
        last if $$text =~ /\G"/gc;
        $found .= escape($text);
    }
    utf8::decode($found) or die "a text that is no UTF-8\n" if $found =~ /[\x80-\xff]/;
    return $found;
}

sub escape {
    my ($text) = @_;
    return $escaped{$1} // $1 if $$text =~ m{\G\\(["\\/bfnrt])}gc;
    my $code;
    if ($$text =~ /\G\\u([dD][89abAB]..)\\u([dD][c-fC-F]..)/gc) {
        $code = 0x10000 + ((hex($1) & 0x3ff) << 10) + (hex($2) & 0x3ff);
    } elsif ($$text =~ /\G\\u([0-9a-fA-F]{4})/gc) {
        $code = hex $1;
    } else {
        die "a text without an end\n";
    }
    my $character = chr $code;
    utf8::encode($character);
    return $character;
}

1;
