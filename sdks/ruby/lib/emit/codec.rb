# frozen_string_literal: true

require "json"

module Emit
  # Values and frames to bytes and back, and nothing changed silently.
  class Codec
    MAX_FRAME = (1 << 24) - 1

    # @param offered [Array<String>] the codecs of the host
    # @param max_frame [Integer] bytes of the largest frame that may come in
    # @return [Codec] msgpack if it is offered and its gem is there, else JSON
    def self.choose(offered, max_frame = MAX_FRAME)
      return Json.new(max_frame) unless offered.include?("msgpack")

      require_relative "msgpack"
      Msgpack.new(max_frame)
    rescue LoadError # the gem is not there
      Json.new(max_frame)
    end

    def initialize(max_frame, binary:)
      @max_frame = max_frame
      @values = Values.new(binary: binary)
    end

    # One result. Most are tried as they are: only on suspicion is each part looked at.
    #
    # @raise [EncodeError] with the path to what cannot be carried
    def value(value)
      return dump(value) if @values.plain?(value)

      dump(@values.clean(value))
    rescue JSON::GeneratorError, RangeError
      dump(@values.clean(value))
    end

    private

    def check_size(size)
      return if size <= @max_frame

      raise FrameTooLarge, "a frame beyond the #{@max_frame} bytes of max_frame"
    end
  end

  # A frame is one object on a line of its own.
  class Json < Codec
    # What may be an infinity, and what may be half a character, to Ruby's parser.
    HUGE = /[eE]\+?0*[1-9]\d\d|\d{309}/.freeze
    SURROGATE = /\\u[dD][89a-fA-F]/.freeze
    PAIR = /\\\\|\\u[dD][89abAB]\h\h\\u[dD][c-fC-F]\h\h/.freeze
    OPTIONS = { symbolize_names: true, max_nesting: Values::DEPTH + 2, allow_duplicate_key: true }.freeze

    def initialize(max_frame = MAX_FRAME)
      super(max_frame, binary: false)
      @input = String.new
      @state = JSON::State.new(max_nesting: 0)
    end

    def name = "json"

    def separator = ","

    def dump(value) = @state.generate(value).force_encoding(Encoding::BINARY)

    # A message by hand. A host writes no number that is too large for a float.
    #
    # @raise [JSON::ParserError] it is no JSON, or Ruby would change it
    # @raise [EncodeError] a number in it is too large
    def load(data)
      parse(data.dup).tap { |value| @values.clean(value, "message") if HUGE.match?(data) }
    end

    # The newline in front keeps a stray print without one from gluing itself to the frame.
    def frame(fields) = "\n#{dump(fields)}\n"

    # @param data [String, nil] *count* results that are encoded already, separated
    def results(op, number, _count, data)
      "\n{\"op\":\"#{op}\",\"id\":#{number},\"msgs\":[#{data}]}\n"
    end

    # The frames that are complete with these bytes.
    def each_frame(data)
      @input << data
      if (last = data.rindex("\n"))
        lines = @input.slice!(0, @input.bytesize - data.bytesize + last + 1)
      end
      check_size(@input.bytesize)
      lines&.each_line { |line| yield parse(line) unless line.size < 3 && line.strip.empty? }
    end

    private

    def parse(data)
      data.force_encoding(Encoding::UTF_8)
      raise JSON::ParserError, "it is not UTF-8" unless data.valid_encoding?
      raise JSON::ParserError, "a lone surrogate" if data.include?('\u') && SURROGATE.match?(data.gsub(PAIR, ""))

      JSON.parse(data, OPTIONS)
    end
  end
end
