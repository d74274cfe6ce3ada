# frozen_string_literal: true

# The nodes of tests/conformance/README.md: what `emit conformance` tests the Ruby SDK with.
require "timeout"
require_relative "../lib/emit"

KINDS = {
  NilClass => "null", TrueClass => "bool", FalseClass => "bool", Integer => "int", Float => "float",
  Time => "time", Array => "list", Hash => "map"
}.freeze
BAD = {
  "nan" => Float::NAN, "infinity" => Float::INFINITY, "big" => 1 << 64, "small" => -(1 << 63) - 1,
  "bytes" => "\x00\xFF".b, "time" => Time.now, "surrogate" => "\xED\xA0\x80", "key" => { 1 => "one" },
  "object" => Object.new
}.freeze

# core

Emit.node(:echo) { |msg, out| out << msg[:value] }

Emit.node(:none) { |_msg| nil }

Emit.node(:count) { |msg| msg[:n].times }

Emit.node(:text) { |msg| "x" * msg[:n] }

Emit.node(:slow) do |msg|
  sleep msg[:seconds]
  msg[:value]
end

def fail_as_asked(msg)
  raise KeyError, msg[:cause] if msg[:cause]

  raise ArgumentError, msg[:text]
rescue KeyError
  raise ArgumentError, msg[:text]
end
Emit.node(:fail, method(:fail_as_asked))

Emit.node(:partial) do |msg, out|
  msg[:n].times { |number| out << number }
  raise ArgumentError, msg[:text]
end

Emit.node(:print) do |msg|
  print msg[:text]
  $stdout.flush
  system("printf", "%s", msg[:text], exception: true)
  "printed"
end

# the others

Emit.node(:kind) do |msg|
  value = msg[:value]
  next value.encoding == Encoding::BINARY ? "bytes" : "text" if value.is_a?(String)

  KINDS.fetch(value.class)
end

Emit.node(:bad) { |msg| { items: [0, { price: BAD.fetch(msg[:what]) }] } }

Emit.node(:deep) { |msg| (msg[:n] - 1).times.inject([]) { |value, _| [value] } }

Emit.node(:wide) { |msg| [0] * msg[:n] }

Emit.node(:native) { |_msg| {}.fetch("missing") }

Emit.node(:retry) { |msg| raise Emit::Retry.new(msg[:text], after: msg[:after]) }

Emit.node(:reject) { |msg| raise Emit::Reject, msg[:text] }

Emit.node(:stdin) { |_msg| $stdin.read + `cat` }

Emit.node(:log) do |msg|
  level = { "warning" => :warn, "critical" => :fatal }.fetch(msg[:level], msg[:level])
  Emit.logger.public_send(level, msg[:text])
  nil
end

Emit.node(:context) do |_msg|
  call = Emit.context
  {
    id: call.id, node: call.node, origin: call.origin, attempt: call.attempt,
    traceparent: call.traceparent, config: call.config,
    has_deadline: !call.remaining.nil?, remaining: call.remaining
  }
end

Emit.node(:trickle) do |msg, out|
  msg[:n].times do |number|
    out << number
    sleep msg[:seconds]
  end
end

Emit.node(:wait) do |msg, out|
  out << "began"
  last = Emit.now + msg[:seconds]
  sleep 0.01 until out.cancelled? || Emit.now > last
  out << (out.cancelled? ? "cancelled" : "waited")
end

Emit.node(:spin) do |msg|
  last = Emit.now + msg[:seconds]
  nil until Emit.now > last
  "spun"
end

# Counts the calls that are at work.
class Meeting
  def initialize
    @lock = Mutex.new
    @changed = ConditionVariable.new
    @now = @most = 0
  end

  def join(wanted, seconds)
    @lock.synchronize do
      @now += 1
      @most = [@most, @now].max
      @changed.broadcast
      last = Emit.now + seconds
      @changed.wait(@lock, [last - Emit.now, 0.001].max) until @most >= wanted || Emit.now > last
      @now -= 1
      @most
    end
  end
end
MEETING = Meeting.new

Emit.node(:meet) { |msg| MEETING.join(msg[:n], msg[:seconds]) }

Emit.node(:late) do |msg|
  Timeout.timeout(Emit.context.remaining) { sleep msg[:seconds] }
  "waited"
end

Emit.node(:exit) { |_| exit }

Emit.node(:leave) { |_| exit!(true) }

if (chosen = ENV.fetch("CONFORMANCE_NODES", nil))
  Emit.nodes.select! { |name, _| chosen.split(",").include?(name) }
end

at_exit { warn "cleaned up" }
Emit.serve(concurrency: Integer(ENV.fetch("CONFORMANCE_CONCURRENCY", "1")))
