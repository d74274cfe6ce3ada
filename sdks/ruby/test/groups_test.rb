# frozen_string_literal: true

require "minitest/autorun"
require_relative "host"

# Several calls in one frame, and several answers in one.
class GroupsTest < Minitest::Test
  ECHO = <<~RUBY
    Emit.node(:echo) { |msg| msg[:fail] ? raise(ArgumentError, msg[:fail]) : msg[:value] }
    Emit.node(:meta) { |_| [Emit.context.id, Emit.context.origin, Emit.context.attempt] }
    Emit.node(:count) { |n:| n.times }
    Emit.node(:text) { |n:| "x" * n }
    Emit.node(:wait) { |msg| sleep 0.01 until !msg[:go] || File.exist?(msg[:go]) }
  RUBY

  def group(node, id, *msgs, **fields) = { op: "calls", id: id, node: node, msgs: msgs, **fields }

  # The answers of *count* calls by id: the results, or the text of the error.
  def answers(host, count, frames = [])
    found = {}
    while found.size < count && (frame = host.read)
      frames << frame[:op]
      results = frame[:op] == "ends" ? frame[:msgs] : [frame[:msgs]]
      results.each_with_index { |msgs, at| found[frame[:id] + at] = msgs || frame[:message] }
    end
    found
  end

  def test_a_group_is_answered_in_groups
    Host.serving(ECHO) do |host|
      host.write(group("echo", 1, *(1..1000).map { |n| { value: n } }))
      assert_equal (1..1000).to_h { |n| [n, [n]] }, answers(host, 1000, frames = [])
      assert_operator frames.size, :<, 500
      host.write(group("count", 2001, { n: 0 }, { n: 2 }, { n: 1 }))
      assert_equal [[], [0, 1], [0]], collected(host, 3)
      assert_equal 0, host.finish.first.exitstatus
    end
  end

  # The results of calls that may come in frames of their own, in order.
  def collected(host, count)
    lists = Array.new(count) { [] }
    done = 0
    while done < count
      frame = host.read
      ends = frame[:op] == "ends" ? frame[:msgs] : [frame[:msgs]]
      ends.each_with_index { |msgs, at| lists[frame[:id] - 2001 + at].concat(msgs) }
      done += ends.size unless frame[:op] == "out"
    end
    lists
  end

  # An older host does not know groups, and sends none.
  def test_without_groups_each_answer_is_a_frame
    Host.serving(ECHO) do |host|
      host.write(*(1..50).map { |n| { op: "call", id: n, node: "echo", msg: { value: n } } })
      assert_equal 50, answers(host, 50, frames = []).size
      assert_equal ["end"], frames.uniq
    end
  end

  def test_a_failure_concerns_its_own_call
    Host.serving(ECHO) do |host|
      host.write(group("echo", 5, { value: 1 }, { fail: "no" }, { value: nil }, { value: 4 }))
      assert_equal({ 5 => [1], 6 => "no", 7 => [], 8 => [4] }, answers(host, 4))
    end
  end

  def test_a_message_has_its_own_meta_before_that_of_the_group
    Host.serving(ECHO) do |host|
      host.write(group("meta", 3, {}, {}, meta: { origin: "a", attempt: 2 }, metas: [{ attempt: 3 }, nil]))
      assert_equal({ 3 => [[3, "a", 3]], 4 => [[4, "a", 2]] }, answers(host, 2))
      host.write(group("meta", 5, {}, {}, metas: [nil, { origin: "b" }]))
      assert_equal({ 5 => [[5, nil, 1]], 6 => [[6, "b", 1]] }, answers(host, 2))
    end
  end

  def test_answers_are_split_at_max_frame
    Host.serving(ECHO, hello: HELLO.merge(max_frame: 1000)) do |host|
      host.write(group("text", 1, *[{ n: 300 }, { n: 300 }, { n: 600 }, { n: 900 }, { n: 1100 }, { n: 5 }]))
      found = answers(host, 6)
      assert_match(/FrameTooLarge|frame holds at most 1000/, found.delete(5))
      assert_equal [300, 300, 600, 900, 5], found.sort.map { |_, msgs| msgs.first.size }
    end
  end

  # A ready answer does not wait for a handler that sleeps.
  def test_no_answer_waits_for_the_next_call
    Dir.mktmpdir do |folder|
      Host.serving(ECHO) do |host|
        host.write(group("wait", 1, {}, {}, { go: "#{folder}/go" }))
        assert_equal [1, 2], answers(host, 2).keys
        File.write("#{folder}/go", "")
        assert_equal [3], answers(host, 1).keys
      end
    end
  end

  def test_the_calls_of_a_group_run_at_a_time
    Host.serving("#{ECHO}Emit.node(:meet) { |_| $met = ($met || 0) + 1; sleep 0.001 until $met == 3 }\n" \
                 "Emit.serve(concurrency: 3)") do |host|
      host.write(group("meet", 1, {}, {}, {}))
      assert_equal [1, 2, 3], answers(host, 3).keys.sort
    end
  end

  def test_a_broken_group_ends_the_process
    broken = [
      { id: 1 }, { id: 1, msgs: [] }, { id: 1, msgs: [{}, 5] }, { id: "1", msgs: [{}] }, { msgs: [{}] },
      { id: 1, msgs: [{}], metas: [] }, { id: 1, msgs: [{}], metas: [1] }, { id: 1, msgs: [{}], meta: 1 },
      { id: 1, msgs: [{}], node: 1 }
    ]
    broken.each do |fields|
      Host.serving("Emit.node(:echo) { |msg| msg }\n") do |host|
        host.write({ op: "calls", **fields })
        assert_equal ["err", nil], host.read.values_at(:op, :id), fields
        assert_equal 76, host.finish.first.exitstatus
      end
    end
  end
end
