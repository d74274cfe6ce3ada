# frozen_string_literal: true

require "minitest/autorun"
require_relative "host"

# What a handler sees of a cancel.
class CancelTest < Minitest::Test
  NODES = <<~RUBY
    Emit.node(:sleep) do |_, out|
      out << "began"
      sleep
    rescue StandardError
      out << "swallowed"
    ensure
      warn "cleaned up"
    end
    Emit.node(:spin) { |_, out| (out << "began") && loop { } }
    Emit.node(:ask) do |_, out|
      out << "began"
      sleep 0.001 until out.cancelled?
      sleep 0.5 # it is not interrupted
      out << "asked"
    end
    Emit.node(:stubborn) do |_, out|
      out << "began"
      sleep
    rescue Emit::Cancelled
      sleep 0.1 and out << "later"
    end
    Emit.node(:echo) { |msg| msg[:value] }
  RUBY

  # The call has begun when its first result comes.
  def cancel(host, node, *more)
    host.ask(node)
    host.write(*more) if more.any?
    assert_equal ["began"], host.read[:msgs]
    host.write({ op: "cancel", id: 1 })
    host.answer
  end

  [1, 3].each do |concurrency|
    define_method("test_a_handler_is_interrupted_with_#{concurrency}_at_a_time") do
      Host.serving("#{NODES}Emit.serve(concurrency: #{concurrency})\n") do |host|
        %w[sleep spin].each do |node|
          answer = cancel(host, node)
          assert_equal ["err", "Emit::Cancelled", "cancelled by the host"], answer.values_at(:op, :type, :message)
          assert_equal [node], host.call("echo", id: 2, value: node)[:msgs] # the process is kept
        end
        assert_equal "cleaned up\n", host.finish.last
      end
    end
  end

  def test_a_handler_that_asks_is_not_interrupted
    Host.serving(NODES) do |host|
      assert_equal ["asked"], cancel(host, "ask")[:msgs]
      assert_equal [7], host.call("echo", id: 2, value: 7)[:msgs]
    end
  end

  def test_a_handler_may_end_its_call_by_a_result
    Host.serving(NODES) { |host| assert_equal ["later"], cancel(host, "stubborn")[:msgs] }
  end

  # It never reaches the code around a handler, nor another call.
  def test_a_cancel_is_for_one_call
    Host.serving("#{NODES}Emit.node(:short) { |_| sleep 0.1 }\n") do |host|
      20.times do |at|
        id = 2 * at + 1
        host.write({ op: "call", id: id, node: "short", msg: {} }, { op: "call", id: id + 1, node: "echo", msg: { value: at } })
        sleep 0.08 + at * 0.002 # around the time at which it ends
        host.write({ op: "cancel", id: id })
        assert_equal id, host.answer[:id]
        assert_equal [id + 1, [at]], host.answer.values_at(:id, :msgs)
      end
      assert_equal 0, host.finish.first.exitstatus
    end
  end

  def test_a_waiting_call_of_a_group_is_cancelled
    Host.serving(NODES) do |host|
      host.write({ op: "calls", id: 1, node: "ask", msgs: [{}, {}] })
      assert_equal ["began"], host.read[:msgs]
      host.write({ op: "cancel", id: 2 }, { op: "cancel", id: 1 })
      assert_equal [1, ["asked"]], host.answer.values_at(:id, :msgs)
      assert_equal [2, "cancelled by the host before it began"], host.answer.values_at(:id, :message)
    end
  end
end
