# frozen_string_literal: true

require "minitest/autorun"
require_relative "host"

# A program by hand: in a shell, or one-shot.
class PlainTest < Minitest::Test
  PROGRAM = <<~RUBY
    require "emit"
    Emit.node(:echo) { |msg| puts "printed"; msg[:value] }
    Emit.node(:count) { |n:| n.times }
  RUBY

  def by_hand(input, program: PROGRAM, **env)
    env = env.to_h { |key, value| [key.to_s, value] }
    Open3.capture3({ "EMIT_NODE" => "echo", **env }, RbConfig.ruby, "-w", "-I#{LIB}", "-e", program, stdin_data: input)
  end

  def test_a_line_for_each_result
    out, _, status = by_hand("{\"n\":2}\n\n{\"n\":1}\n", EMIT_NODE: "count")
    assert_equal ["0\n1\n0\n", true], [out, status.success?]
  end

  def test_a_document_over_several_lines
    assert_equal "[1]\n", by_hand("{\"value\":\n [1]\n}").first
  end

  def test_the_message_of_the_environment_leaves_the_input_alone
    program = "require 'emit'\nEmit.node { |msg| [msg[:a], $stdin.read] }"
    assert_equal "[1,\"typed\"]\n", by_hand("typed", program: program, EMIT_MSG: '{"a":1}', EMIT_NODE: "-e").first
  end

  def test_a_probe_gets_ready_first
    ready, result = by_hand('{"n":1}', EMIT_NODE: "count", EMIT_PROBE: "1").first.split("\n").reject(&:empty?)
    assert_equal "ready", JSON.parse(ready)["op"]
    assert_equal "0", result
  end

  def test_a_failure_has_the_authors_lines_and_later_messages_run
    out, complaint, status = by_hand("{}\n{\"n\":1}\n", EMIT_NODE: "count")
    assert_equal ["0\n", 1], [out, status.exitstatus]
    assert_match(/count needs "n"; the message has:/, complaint)
    refute_match(%r{lib/emit}, complaint)
  end

  def test_several_nodes_need_a_name
    assert_match(/set EMIT_NODE to one of: echo, count/, by_hand("{}", EMIT_NODE: "none")[1])
  end

  def test_what_json_would_change_is_refused
    { "1e400" => /Infinity/, '"\ud800x"' => /lone surrogate/, "\"\xFF\"" => /not UTF-8/, "NaN" => /NaN/ }.each do |text, why|
      out, complaint, status = by_hand("{\"value\":#{text}}")
      assert_equal ["", 1], [out, status.exitstatus], text
      assert_match why, complaint
    end
    assert_equal "\"\\\\ud800 \u{1F600}\"\n", by_hand('{"value":"\\\\ud800 \ud83d\ude00"}').first.force_encoding("UTF-8")
  end

  def test_a_file_that_is_required_serves_nothing
    Dir.mktmpdir do |folder|
      File.write("#{folder}/count.rb", "require 'emit'\nEmit.node { |msg, out| msg[:count].times { |i| out << i } }\n")
      test = "require '#{folder}/count'; p Emit[:count].call(count: 3)"
      out, _, status = Open3.capture3(RbConfig.ruby, "-w", "-I#{LIB}", "-e", test, stdin_data: '{"count": 1}')
      assert_equal ["[0, 1, 2]\n", true], [out, status.success?]
    end
  end
end
