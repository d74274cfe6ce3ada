# frozen_string_literal: true

module Emit
  # Decides which values can be carried, and says where one cannot be, and why.
  class Values
    DEPTH = 128 # Levels of lists and maps that a host takes.
    MEMBERS = 1_000_000 # Members of lists and maps, all levels together.
    NO_JSON = 'JSON cannot carry it; msgpack can: gem install msgpack here, codec = "msgpack" there'
    NAME = /\A(?!(?:[^[:digit:]]*[[:digit:]]){5})[[:alpha:]_][[:word:]-]{0,39}\z/
    TEXT = [Encoding::UTF_8, Encoding::US_ASCII].freeze
    ADVICE = { "Symbol" => "; emit its to_s", "Range" => "; emit its each" }.freeze

    def self.members(value)
      return 0 unless value.is_a?(Hash) || value.is_a?(Array)

      value.size + (value.is_a?(Hash) ? value.values : value).sum { |item| members(item) }
    end

    # @param binary [Boolean] true if bytes, times, NaN and infinities can be carried
    def initialize(binary:)
      @binary = binary
      @keys = {} # known keys: most messages have the same ones
    end

    # True if the encoders take the value unchanged, or refuse it themselves, such as a NaN in JSON
    # or a long integer in msgpack. False only means that `clean` has to look.
    def plain?(value, levels = DEPTH)
      case value
      when Hash then value.instance_of?(Hash) && levels > 0 && map?(value, levels - 1)
      when String then @binary ? value.valid_encoding? : text?(value)
      when Integer then @binary || value.bit_length < 64
      when Float, nil, true, false then true
      when Array then value.instance_of?(Array) && levels > 0 && value.all? { |item| plain?(item, levels - 1) }
      else @binary && value.instance_of?(Time)
      end
    end

    # Copy a value into plain types.
    #
    # @raise [EncodeError] with the path to the value that cannot be carried
    def clean(value, path = "result", levels = DEPTH)
      case value
      when nil, true, false then value
      when Integer then integer(value, path)
      when Float then float(value, path)
      when String then string(value, path)
      when Hash, Array then inside(value, path, levels)
      when Time then time(value, path)
      else
        raise EncodeError, "#{path} is a #{value.class}, which no codec carries#{ADVICE[value.class.name]}"
      end
    end

    private

    def map?(hash, levels)
      keys = @keys
      hash.each do |key, item|
        return false unless keys[key] || key?(key)

        case item # most are one of these two, and need no call
        when String then return false unless @binary ? item.valid_encoding? : text?(item)
        when Integer then return false unless @binary || item.bit_length < 64
        else return false unless plain?(item, levels)
        end
      end
      true
    end

    def text?(value) = value.instance_of?(String) && TEXT.include?(value.encoding)

    def key?(key)
      return false unless key.instance_of?(Symbol) && TEXT.include?(key.encoding)

      @keys.clear if @keys.size > 1000
      @keys[key] = true
    end

    def integer(value, path)
      return value if value >= -(1 << 63) && value < 1 << 64

      raise EncodeError, "#{path} is an integer beyond 64 bits; emit it as text"
    end

    def float(value, path)
      return value if @binary || value.finite?

      raise EncodeError, "#{path} is #{value}: #{NO_JSON}"
    end

    def time(value, path)
      return Time.at(value.to_r).utc if @binary

      raise EncodeError, "#{path} is a Time: #{NO_JSON}"
    end

    def string(value, path)
      return text(value, path) unless value.encoding == Encoding::BINARY
      return String.new(value) if @binary

      raise EncodeError, "#{path} is bytes, a String in #{value.encoding}: #{NO_JSON}"
    end

    def text(value, path)
      text = String.new(value).encode(Encoding::UTF_8)
      return text if text.valid_encoding?

      raise EncodeError, "#{path} is no valid text: it holds what is not UTF-8"
    rescue EncodingError => error
      raise EncodeError, "#{path} is no valid text: #{error.message}"
    end

    def inside(value, path, levels)
      raise EncodeError, "#{path[0, 80]}... nests deeper than #{DEPTH} levels" if levels.zero?
      return map(value, path, levels - 1) if value.is_a?(Hash)

      value.each_with_index.map { |item, at| clean(item, "#{path}[#{at}]", levels - 1) }
    end

    def map(hash, path, levels)
      hash.each_with_object({}).with_index(1) do |((key, item), copy), at|
        name = name(key, path)
        inner = step(path, name, at)
        raise EncodeError, "#{inner} is there twice, as text and as a Symbol" if copy.key?(name)

        copy[name] = clean(item, inner, levels)
      end
    end

    # A key that may be data, such as an address, is replaced by its number: the text ends in logs.
    def step(path, key, at)
      NAME.match?(key) ? "#{path}.#{key}" : "#{path}[key #{at}]"
    end

    def name(key, path)
      text = key.is_a?(Symbol) ? key.name : key
      return text(text, "a key of #{path}") if text.is_a?(String) && (text.encoding != Encoding::BINARY)

      raise EncodeError, "#{path} has a key of type #{key.class}; a key must be text"
    end
  end
end
