# frozen_string_literal: true

require "json"

module Emit
  # Values and frames to bytes and back, with no silent change.
  class Codec
    MAX_FRAME = (1 << 24) - 1

    # @param offered [Array<String>] the codecs of the host
    # @param max_frame [Integer] bytes of the largest frame that may come in
    # @return [Codec] msgpack if it is offered and its gem is there, else JSON
    def self.choose(offered, max_frame = MAX_FRAME)
      return Json.new(max_frame) unless offered.include?("msgpack")

      require_relative "msgpack"
      Msgpack.new(max_frame)
    rescue LoadError # the gem is not installed
      Json.new(max_frame)
    end

    def initialize(max_frame, binary:)
      @max_frame = max_frame
      @values = Values.new(binary: binary)
    end

    # Encode one result.
    #
    # @raise [EncodeError] with the path to the value that cannot be carried
    def value(value)
      dump(@values.plain?(value) ? value : @values.clean(value))
    rescue JSON::GeneratorError, RangeError # they give no path
      dump(@values.clean(value))
    end

    private

    def too_large = FrameTooLarge.new("a frame beyond the #{@max_frame} bytes of max_frame")
  end

  # A frame is one object on a line of its own.
  class Json < Codec
    # Text that Ruby's parser may read as an infinity or as half a character.
    HUGE = /[eE]\+?0*[1-9]\d\d|\d{309}/.freeze
    SURROGATE = /\\u[dD][89a-fA-F]/.freeze
    PAIR = /\\\\|\\u[dD][89abAB]\h\h\\u[dD][c-fC-F]\h\h/.freeze
    OPTIONS = { symbolize_names: true, max_nesting: Values::DEPTH + 2, allow_duplicate_key: true }.freeze

    def initialize(max_frame = MAX_FRAME)
      super(max_frame, binary: false)
      @input = String.new
      @start = @searched = 0 # of the next frame, and the part known to hold no other end of a line
      @state = JSON::State.new(max_nesting: 0)
    end

    def name = "json"

    def separator = ","

    def dump(value) = @state.generate(value).force_encoding(Encoding::BINARY)

    # Read a message by hand. A host writes no number that is too large for a float.
    #
    # @raise [JSON::ParserError] it is not JSON, or Ruby would change it
    # @raise [EncodeError] a number in it is too large
    def load(data)
      parse(data.dup).tap { |value| @values.clean(value, "message") if HUGE.match?(data) }
    end

    # The newline in front keeps a stray print without one from gluing itself to the frame.
    def frame(fields) = "\n#{dump(fields)}\n"

    # @param data [String, nil] *count* values that are encoded already, separated
    def list(_count, data) = "[#{data}]"

    # Encode the list of a call with one result.
    #
    # @raise [EncodeError] with the path to the value that cannot be carried
    def one(value) = "[#{value(value)}]"

    # @param list [String] the frame's `msgs`, encoded
    def results(op, number, list)
      "\n{\"op\":\"#{op}\",\"id\":#{number},\"msgs\":#{list}}\n"
    end

    # Add received bytes.
    def feed(data)
      @input = @input.byteslice(@start, @input.bytesize) if @start.positive?
      @searched -= @start
      @start = 0
      @input << data
    end

    # Yield the complete frames. The block may break off; the next call goes on.
    #
    # @return [Boolean] true if there were any
    def each_frame
      any = false
      while (stop = @input.index("\n", @searched))
        start = @start
        @start = @searched = stop + 1
        next if stop == start # as before most frames

        line = @input.byteslice(start, stop - start)
        next if line.bytesize < 3 && line.strip.empty?

        any = true
        yield parse(line)
      end
      return true if any

      @searched = @input.bytesize
      raise too_large if @searched - @start > @max_frame

      false
    end

    private

    def parse(data)
      data.force_encoding(Encoding::UTF_8)
      raise JSON::ParserError, "it is not UTF-8" unless data.valid_encoding?
      raise JSON::ParserError, "a lone surrogate" if data.include?('\u') && SURROGATE.match?(data.gsub(PAIR, ""))

      JSON::Parser.new(data, **OPTIONS).parse
    end
  end
end
