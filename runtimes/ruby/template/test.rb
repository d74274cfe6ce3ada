require "minitest/autorun"
require_relative "{{name}}"

class NodeTest < Minitest::Test
  def test_words
    out = []
    {{name}}({ text: "the rain" }, out)
    assert_equal [{ word: "the", length: 3 }, { word: "rain", length: 4 }], out
  end
end
