# frozen_string_literal: true

require "minitest/autorun"
require_relative "host"

# What a host sees of a program, beyond what `emit conformance` asks of every SDK.
class SessionTest < Minitest::Test
  FORKS = <<~RUBY
    Emit.node(:fork) { |_| fork ? Process.wait2.last.exitstatus : "child" }
    Emit.node(:process_fork) { |_| Process.fork ? Process.wait2.last.exitstatus : "child" }
    Emit.node(:block) { |_, out| fork { out << "child" } && out << Process.wait2.last.exitstatus }
    Emit.node(:popen) do |_, out|
      pipe = IO.popen("-") or next out << "child"
      pipe.close
      out << $?.exitstatus
    end
    Emit.node(:echo) { |msg| msg[:value] }
  RUBY
  NO_HOOK = "def Process.respond_to?(name, all = false) = name != :_fork && super\n" # as in Ruby 3.0

  # Only the parent answers; a child that returns from the handler runs no waiting call either.
  def test_a_forked_child_answers_nothing
    ["", NO_HOOK].each do |before|
      Host.serving(before + FORKS) do |host|
        %w[fork process_fork popen].each { |node| check_fork(host, node, 0) }
        check_fork(host, "block", 1) # it has no call to emit for
        assert_equal 0, host.finish.first.exitstatus
      end
    end
  end

  def check_fork(host, node, status)
    host.write({ op: "call", id: 1, node: node, msg: {} }, { op: "call", id: 2, node: "echo", msg: { value: 5 } })
    assert_equal [{ op: "end", id: 1, msgs: [status] }, { op: "end", id: 2, msgs: [5] }], [host.answer, host.answer], node
  end

  # The exception waits until a frame is whole.
  def test_a_timeout_cuts_no_frame_in_two
    Host.serving(<<~RUBY) do |host|
      require "timeout"
      Emit.node(:pour) do |_, out|
        out << "x" * 5000 # on a busy machine the time may be over before the loop begins
        Timeout.timeout(0.2) { loop { out << "x" * 5000 } }
      rescue Timeout::Error
        out << "done"
      end
    RUBY
      answer = host.call("pour")
      assert_equal "done", answer[:msgs].pop
      assert_equal [5000], answer[:msgs].map(&:size).uniq
    end
  end

  def test_no_call_begins_when_nobody_reads
    Host.serving("Emit.node(:big) { |msg| warn(msg[:n]) || 'x' * 20_000 }\n") do |host|
      host.stop_reading
      host.write(*(1..5).map { |n| { op: "call", id: n, node: "big", msg: { n: n } } })
      assert_equal "1\n", host.finish.last
    end
  end

  def test_it_ends_when_nobody_reads_and_a_write_is_stuck
    [[500_000], [5000] * 30].each do |sizes| # more than a pipe holds, at once or bit by bit
      Host.serving("Emit.node(:text) { |msg| 'x' * msg[:size] }\n") do |host|
        killer = Thread.new { sleep 30 and Process.kill("KILL", host.pid) } # or the test would hang as well
        sizes.each { |size| host.ask("text", size: size) && sleep(0.01) } # for each a write of its own
        sleep 1.2 # until it has looked, in the midst of its write, for the end of its input
        assert_equal 1, host.finish.first.exitstatus
        killer.kill
      end
    end
  end

  def test_a_handler_that_leaves_is_answered
    Host.serving(<<~RUBY) do |host|
      Emit.node(:leave) { |_| exit 3 }
      Emit.node(:stop) { |_| Thread.exit }
      Emit.serve(concurrency: 2)
    RUBY
      assert_equal "the handler ended the process: exit(3)", host.call("leave")[:message]
      3.times { |id| assert_equal "ThreadError", host.call("stop", id: id + 2)[:type] }
    end
  end

  LATE = <<~RUBY
    require "timeout"
    Emit.node(:wait) { |msg| sleep 0.01 until File.exist?(msg[:go]) }
    Emit.node(:left) { |_| Emit.context.remaining }
    Emit.node(:late) { |_| Timeout.timeout(Emit.context.remaining) { sleep } }
    Emit.node(:cause) do |_|
      Timeout.timeout(Emit.context.remaining) { sleep }
    rescue Timeout::Error
      raise "no answer"
    end
    Emit.node(:other) { |_| sleep(Emit.context.remaining) && raise("mine") }
    Emit.node(:early) { |_| Timeout.timeout(0.01) { sleep } }
  RUBY

  def with_deadline(node, id, milliseconds, **msg)
    { op: "call", id: id, node: node, msg: msg, meta: { deadline_ms: milliseconds } }
  end

  # A call that has waited for those before it has all of its time.
  def test_a_deadline_counts_from_the_turn
    Dir.mktmpdir do |folder|
      Host.serving(LATE) do |host|
        host.write(with_deadline("wait", 1, 60_000, go: "#{folder}/go"), with_deadline("left", 2, 60_000))
        sleep 1 # which the second call has to wait at least
        File.write("#{folder}/go", "")
        assert_equal 1, host.answer[:id]
        assert_includes 59.1..60, host.answer[:msgs].first
      end
    end
  end

  def test_a_failure_of_the_deadline_is_a_timeout
    Host.serving(LATE) do |host|
      { "late" => true, "cause" => true, "other" => nil }.each_with_index do |(node, timeout), id|
        host.write(with_deadline(node, id, 30))
        assert_equal [id, timeout], host.answer.values_at(:id, :timeout), node
      end
      host.write(with_deadline("early", 9, 60_000))
      refute_includes host.answer, :timeout
    end
  end

  def test_one_node_has_any_name
    Host.serving("Emit.node(:one) { |_| Emit.context.node }\n") do |host|
      host.write({ op: "call", id: 1, msg: {} })
      assert_equal [["one"], ["one"]], [host.answer[:msgs], host.call("another", id: 2)[:msgs]]
    end
  end

  # Whether the name comes with the call or with hello: no other node is run.
  def test_a_call_for_no_node_lists_those_there_are
    Host.serving("Emit.node(:one) { |_| 1 }\nEmit.node(:two) { |_| 2 }\n") do |host|
      host.write({ op: "call", id: 1, msg: {} }, { op: "call", id: 2, node: "three", msg: {} })
      assert_equal 'there is no node "x" in this program; it has: one, two', host.answer[:message]
      assert_equal 'there is no node "three" in this program; it has: one, two', host.answer[:message]
    end
  end

  # First the inputs; where that is not enough, the program says so and ends.
  def test_ready_leaves_out_what_has_no_room
    program = "Emit.node(:one) { |#{(1..30).map { |n| "parameter_#{n}:" }.join(', ')}| 1 }\n"
    Host.serving(program, hello: HELLO.merge(max_frame: 500)) do |host|
      assert_equal [["one"], {}], host.ready.values_at(:nodes, :inputs)
    end
    Host.serving(program.sub("one", "a_name" * 20), hello: HELLO.merge(max_frame: 100)) do |host|
      assert_equal ["err", nil, "Emit::FrameTooLarge"], host.ready.values_at(:op, :id, :type)
      refute host.finish.first.success?
    end
  end

  def test_what_the_context_emits_comes_before_the_result
    Host.serving("Emit.node(:both) { |msg| (Emit.context << 1 << 2) && msg[:value] }\n") do |host|
      assert_equal [1, 2, 3], host.call("both", value: 3)[:msgs]
    end
  end

  def test_nothing_is_emitted_after_the_end
    Host.serving(<<~RUBY) do |host|
      Emit.node(:keep) { |_, out| @out = out; nil }
      Emit.node(:late) { |_| @out << 1 }
    RUBY
      assert_equal [], host.call("keep")[:msgs]
      assert_match(/the call is over/, host.call("late", id: 2)[:message])
    end
  end

  # The author's own at_exit runs after the last call when he serves by himself.
  def test_at_exit_comes_after_the_calls
    Host.serving(<<~RUBY) do |host|
      Emit.node(:echo) { |msg| msg[:value] }
      at_exit { warn "cleaned up" }
      Emit.serve
    RUBY
      assert_equal [7], host.call("echo", value: 7)[:msgs]
      assert_equal "cleaned up\n", host.finish.last
    end
  end

  # Also with no gems at all.
  def test_json_serves_where_there_is_no_msgpack
    Host.serving("Emit.node(:echo) { |msg| msg[:value] }\n", "--disable-gems") do |host|
      assert_equal "json", host.ready[:codec]
      assert_equal [[1, 2.5, nil]], host.call("echo", value: [1, 2.5, nil])[:msgs]
    end
  end

  def test_a_context_is_that_of_the_call_in_fibers_too
    Host.serving("Emit.node(:id) { |_| Enumerator.new { |y| y << Emit.context.id }.next }\n") do |host|
      assert_equal [42], host.call("id", id: 42)[:msgs]
    end
  end

  def test_the_reason_of_an_error_of_ruby_itself_is_text
    Host.serving("Emit.node(:bad) { |_| Integer(\"\\xFF\") }\n") do |host|
      assert_match(/invalid value for Integer/, host.call("bad")[:message])
    end
  end
end
