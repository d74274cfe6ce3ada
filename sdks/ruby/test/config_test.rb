# frozen_string_literal: true

require "minitest/autorun"
require_relative "host"
require_relative "../lib/emit"

# One name for the node's configuration, wherever it comes from.
class ConfigTest < Minitest::Test
  NODE = "Emit.node(:shop) { |_| [Emit.context.config, ENV.key?('EMIT_CONFIG')] }\n"

  def by_hand(config, program = NODE)
    Open3.capture3({ "EMIT_CONFIG" => config }, RbConfig.ruby, "-w", "-I#{LIB}", "-remit", "-e", program, stdin_data: "{}")
  end

  def test_a_host_sends_it
    Host.serving(NODE, hello: HELLO.merge(config: { shop: { name: "north" } })) do |host|
      assert_equal [[{ shop: { name: "north" } }, false]], host.call("shop")[:msgs]
    end
    Host.serving(NODE) { |host| assert_equal [[{}, false]], host.call("shop")[:msgs] }
  end

  # The programs that a handler starts do not get it.
  def test_a_plain_run_reads_the_environment
    assert_equal "[{\"n\":1},false]\n", by_hand('{"n":1}').first
    assert_equal "[{},false]\n", by_hand("").first
  end

  def test_an_error_does_not_quote_it
    ["secret", '["secret"]', '{"n":"secret"'].each do |text|
      _, errors, status = by_hand(text)
      assert_equal 1, status.exitstatus
      assert_includes errors, "EMIT_CONFIG is not a map in JSON"
      refute_includes errors, "secret"
    end
  end

  def test_it_comes_after_the_program_has_loaded
    Host.serving("Emit.context.config\n#{NODE}") do |host|
      assert_match(/read Emit.context.config in a handler/, host.ready[:message])
    end
  end

  def test_a_test_has_none
    assert_equal({}, Emit.context.config)
  end
end
