# frozen_string_literal: true

require "minitest/autorun"
require "emit"

def top_level(msg, out)
  out << msg[:n] << nil
end

# Handlers of every kind, called as an author's test calls them.
class NodeTest < Minitest::Test
  def node(name = "x", handler = nil, &block) = Emit::Node.new(name, handler || block)

  def test_a_value
    assert_equal [3], node { |msg| msg[:n] }.call(n: 3)
    assert_equal [], node { |_| nil }.call
    assert_equal [[1, 2]], node { [1, 2] }.call
  end

  def test_results_that_are_pushed
    assert_equal [0, nil, false], node { |_msg, out| out << 0 << nil << false }.call
    assert_equal [7, nil], node("x", method(:top_level)).call(n: 7)
  end

  def test_an_enumerator_is_a_stream
    assert_equal [0, 1, 2], node { |msg| msg[:n].times }.call(n: 3)
    assert_equal [2, 4], node { |_| [1, 2].each.lazy.map { |n| n * 2 } }.call
  end

  def test_what_no_codec_carries_fails_in_a_test_too
    error = assert_raises(Emit::EncodeError) { node { |_| { a: [:b] } }.call }
    assert_equal "result.a[0] is a Symbol, which no codec carries; emit its to_s", error.message
  end

  def test_several_values_at_a_time_are_a_list
    assert_equal [["a", 0], ["b", 1]], node { |_| %w[a b].each_with_index }.call
  end

  def test_keywords_are_fields
    price = node("price") { |sku:, count: 1| [sku, count] }
    assert_equal [["a", 1]], price.call(sku: "a", other: 3)
    assert_equal({ required: [:sku], optional: [:count] }, price.inputs)
    error = assert_raises(ArgumentError) { price.call(count: 2, more: 1) }
    assert_equal 'price needs "sku"; the message has: count, more', error.message
  end

  def test_keywords_with_the_rest_and_with_out
    assert_equal [{ b: 2 }], node { |a:, **rest| rest if a }.call(a: 1, b: 2)
    assert_equal [1, 2], node { |out, a:| out << a << a + 1 }.call(a: 1)
  end

  def test_keys_are_symbols_and_the_message_takes_text_as_well
    assert_equal [[1, 1, 2, nil]], node { |m| [m[:a], m["a"], m[:b][0][:c], m["none"]] }.call("a" => 1, "b" => [{ "c" => 2 }])
  end

  def test_callable_objects
    callable = Object.new
    def callable.call(msg) = msg[:n]
    assert_equal [5], node("x", callable).call(n: 5)
  end

  def test_parameters_that_no_message_can_fill
    assert_raises(ArgumentError) { node { |*all| all } }
    assert_raises(ArgumentError) { node { |a, b, c| [a, b, c] } }
    assert_raises(ArgumentError) { node { |msg, out, a:| [msg, out, a] } }
  end

  def test_registering
    assert_equal "top_level", Emit.node(:top_level).name
    assert_equal [1, nil], Emit[:top_level].call(n: 1)
    assert_equal "node_test", Emit.node { |_| nil }.name
    assert_raises(ArgumentError) { Emit.node(:top_level) }
    assert_raises(KeyError) { Emit[:none] }
  ensure
    Emit.nodes.clear
  end

  def test_outside_of_a_call
    assert_nil Emit.context.id
    refute_predicate Emit.context, :cancelled?
    assert_equal [nil, 1, {}], [Emit.context.remaining, Emit.context.attempt, Emit.context.config]
  end

  def test_retry
    assert_equal 2, Emit::Retry.new("busy", after: 2).after
    assert_equal "try again", Emit::Retry.new.message
    [-1, Float::NAN, Float::INFINITY, "1"].each { |after| assert_raises(ArgumentError) { Emit::Retry.new(after: after) } }
  end

  def test_the_logger_by_hand
    assert_includes Emit.logger.class.ancestors.map(&:name), "Logger"
    assert_output("", "") { Emit.logger.debug("hidden") }
  end
end
