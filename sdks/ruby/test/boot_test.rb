# frozen_string_literal: true

require "minitest/autorun"
require_relative "host"

# Files that know nothing of Emit, and what is said of those that do not load.
class BootTest < Minitest::Test
  LAUNCH = File.expand_path("../../../runtimes/ruby/launch.rb", __dir__)

  def launched(text, *function, name: "words.rb")
    Dir.mktmpdir do |folder|
      file = File.join(folder, name)
      File.write(file, text)
      host = Host.new([RbConfig.ruby, "-w", LAUNCH, file, *function])
      yield host
    ensure
      host&.close
    end
  end

  def test_helpers_of_other_files_are_no_nodes
    launched("require 'json'\nrequire 'pp'\ndef only(text:) = text.upcase\n") do |host|
      assert_equal ["only"], host.ready[:nodes]
      assert_equal ["A"], host.call("only", text: "a")[:msgs]
    end
  end

  def test_a_dash_in_the_files_name
    launched("def clean_words(msg) = 1\ndef other(msg) = 2\n", name: "clean-words.rb") do |host|
      assert_equal ["clean_words"], host.ready[:nodes]
    end
  end

  def test_which_function
    launched("def b(msg) = 1\ndef a(msg) = 2\n", name: "two.rb") do |host|
      assert_equal [nil, "two.rb: which function is the node? Name it two, or say two.rb:name (found: b, a)"],
                   host.ready.values_at(:id, :message)
      assert_equal 1, host.finish.first.exitstatus
    end
  end

  def test_a_file_of_nodes
    program = "require 'emit'\nEmit.node(:a) { |_| 1 }\nEmit.node(:b) { |_| 2 }\nEmit.serve(concurrency: 3)\n"
    launched(program) { |host| assert_equal [%w[a b], 3], host.ready.values_at(:nodes, :concurrency) }
    launched(program, "b") { |host| assert_equal ["b"], host.ready[:nodes] }
    launched(program, "c") { |host| assert_match(/no function c in it \(found: a, b\)/, host.ready[:message]) }
  end

  def test_a_syntax_error_has_its_line
    launched("def a(msg\n") { |host| assert_match(/words\.rb:\d\z/, host.ready[:stack].first) }
  end
end
