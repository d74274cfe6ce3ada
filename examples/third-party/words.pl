#!/usr/bin/env perl
# A node: emits each word of a text.

use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Emit;

Emit::node(words => sub {
    my ($msg, $emit) = @_;
    $emit->(lc) for split ' ', $msg->{text};
});

Emit::serve();
