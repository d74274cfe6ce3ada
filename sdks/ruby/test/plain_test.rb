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

  def test_a_probe_gets_ready_first_and_an_end_last
    ready, *rest = by_hand('{"n":1}', EMIT_NODE: "count", EMIT_PROBE: "1").first.split("\n").reject(&:empty?)
    assert_equal "ready", JSON.parse(ready)["op"]
    assert_equal ["0", '{"op":"end","id":null}'], rest
  end

  def test_a_handler_that_ends_the_process_has_failed
    ["exit", "exit true", "exit(0)", "Thread.new { exit }.join; sleep", "abort"].each do |how|
      out, complaint, status = by_hand("{}\n{}\n", program: "require 'emit'\nEmit.node { |_| #{how} }")
      assert_equal ["", 1], [out, status.exitstatus], how
      assert_match(/\Athe handler ended the process: exit\(\d\)\n\z/, complaint, how) # only once
    end
  end

  def test_a_process_that_is_ended_without_a_word_writes_no_end
    out, _, status = by_hand("{}", program: "require 'emit'\nEmit.node { |_| exit!(true) }", EMIT_PROBE: "1")
    assert status.success?
    assert_includes JSON.parse(out)["caps"], "end"
  end

  def test_one_node_needs_no_name_and_goes_by_any
    ["", "another"].each do |name|
      assert_equal "1\n", by_hand("{}", program: "require 'emit'\nEmit.node(:one) { |_| 1 }", EMIT_NODE: name).first
    end
  end

  def test_a_failure_has_the_authors_lines_and_later_messages_run
    out, complaint, status = by_hand("{}\n{\"n\":1}\n", EMIT_NODE: "count")
    assert_equal ["0\n", 1], [out, status.exitstatus]
    assert_match(/count needs "n"; the message has:/, complaint)
    refute_match(%r{lib/emit}, complaint)
  end

  def test_several_nodes_need_a_name
    { "" => /set EMIT_NODE to one of the program's nodes: echo, count/,
      "none" => /there is no node "none" in this program; it has: echo, count/ }.each do |name, says|
      out, complaint, status = by_hand("{}", EMIT_NODE: name)
      assert_equal ["", 1], [out, status.exitstatus]
      assert_match says, complaint
    end
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
