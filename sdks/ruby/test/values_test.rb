# frozen_string_literal: true

require "minitest/autorun"
require "emit"

# Values through both codecs: exactly, or refused with the place.
class ValuesTest < Minitest::Test
  CODECS = [Emit::Json.new, Emit::Codec.choose(["msgpack"])].freeze
  Text = Class.new(String)

  def deep(levels) = (levels - 1).times.inject([]) { |value, _| [value] }

  def carry(value, codecs = CODECS)
    codecs.each do |codec|
      got = codec.load(codec.value({ value: value })).fetch(:value)
      assert_equal [value.class, value.inspect], [got.class, got.inspect], codec.name
    end
  end

  def refuse(value, why, codecs = CODECS)
    codecs.each do |codec|
      error = assert_raises(Emit::EncodeError, codec.name) { codec.value({ items: [0, { price: value }] }) }
      assert_match why, error.message
      codec.value({ value: 1 }) # nothing is left of what was refused
    end
  end

  def test_what_both_carry
    [nil, true, false, 0, 2**53 + 1, -2**63, 2**64 - 1, 3.0, -0.0, 1e300, 5e-324, "", "a\0b", "\u2028 e\u0301",
     [], {}, { a: { b: [1] } }, { "": 1 }, deep(127)].each { |value| carry(value) }
  end

  def test_a_float_stays_a_float
    CODECS.each { |codec| assert_equal(-Float::INFINITY, 1 / codec.load(codec.value({ value: -0.0 }))[:value]) }
  end

  def test_what_msgpack_alone_carries
    [Float::INFINITY, Float::NAN, "\x00\xFF".b, Time.at(1, 5, :nanosecond).utc, Time.at(-1).utc].each do |value|
      carry(value, [CODECS.last])
      refuse(value, /\Aresult\.items\[1\]\.price is .*: JSON cannot carry it; msgpack can/, [CODECS.first])
    end
  end

  def test_what_none_carries
    {
      2**64 => /\.price is an integer beyond 64 bits/, -2**63 - 1 => /beyond 64 bits/,
      "\xFF" => /\.price is no valid text/, "\xED\xA0\x80" => /no valid text/, :a => /is a Symbol, .*emit its to_s/,
      (1..2) => /is a Range, .*emit its each/, Object.new => /is a Object, which no codec carries/,
      { 1 => 2 } => /\.price has a key of type Integer; a key must be text/, { a: 1, "a" => 2 } => /\.a is there twice/,
      { "4111-1" => { "unit-price" => 1r } } => /price\[key 1\]\.unit-price is a Rational/,
      { "\xFF".b => 1 } => /a key must be text/, 1r => /is a Rational/, deep(127) => /nests deeper than 128 levels/
    }.each { |value, why| refuse(value, why) }
  end

  def test_depth
    CODECS.each do |codec|
      codec.value(deep(128))
      assert_raises(Emit::EncodeError) { codec.value(deep(129)) }
    end
    loop = []
    loop << loop
    refuse(loop, /nests deeper/)
  end

  def test_other_encodings_and_subclasses_are_plain_text
    CODECS.each do |codec|
      value = { "k\u00E9".encode("ISO-8859-1") => ["\u00E9".encode("UTF-16LE"), "a".encode("US-ASCII"), Text.new("t")] }
      assert_equal({ "k\u00E9": %w[é a t] }, codec.load(codec.value(value)))
    end
  end

  def test_random_values
    random = Random.new(1)
    1000.times { carry(any(random)) }
  end

  def any(random, levels = 3)
    case random.rand(levels.zero? ? 6 : 8)
    when 0 then nil
    when 1 then [true, false].sample(random: random)
    when 2 then random.rand(-(1 << 63)...(1 << 64))
    when 3 then [random.bytes(8).unpack1("D")].find(&:finite?) || 0.5
    when 4 then random.bytes(6).unpack("S*").map { |code| code.between?(0xD800, 0xDFFF) ? 65 : code }.pack("U*")
    when 5 then random.rand(100)
    when 6 then Array.new(random.rand(4)) { any(random, levels - 1) }
    else Array.new(random.rand(4)) { |at| [:"k#{at}", any(random, levels - 1)] }.to_h
    end
  end

  def test_members_are_counted_at_all_levels
    assert_equal 6, Emit::Values.members([1, { a: [1, 2], b: 3 }])
  end

  # Byte by byte or at once, frames come out the same.
  def test_frames_in_pieces
    CODECS.each do |codec|
      data = [1, 2].map { |n| codec.frame({ op: "ping", n: n, text: "\u00E9" * 300 }) }.join
      [1, 7, data.bytesize].each do |size|
        got = []
        data.bytes.each_slice(size) do |piece|
          codec.feed(piece.pack("C*"))
          codec.each_frame { |frame| got << frame[:n] }
        end
        assert_equal [1, 2], got
      end
    end
  end

  def test_frames_a_few_at_a_time
    CODECS.each do |codec|
      codec.feed([1, 2, 3].map { |n| codec.frame({ op: "ping", n: n }) }.join)
      got = Array.new(3) { [].tap { |some| codec.each_frame { |frame| some << frame[:n]; break if some.size == 2 } } }
      assert_equal [[1, 2], [3], []], got
    end
  end

  def test_a_frame_over_the_limit
    [Emit::Json.new(100), Emit::Codec.choose(["msgpack"], 100)].each do |codec|
      codec.feed(codec.frame({ text: "x" * 200 })[0..-2])
      assert_raises(Emit::FrameTooLarge) { codec.each_frame { |frame| flunk frame } }
    end
  end
end
