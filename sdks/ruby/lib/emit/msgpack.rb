# frozen_string_literal: true

require "msgpack"

module Emit
  # A frame is its length in 4 bytes, and one map.
  class Msgpack < Codec
    TO_TIME = lambda do |data|
      stamp = MessagePack::Timestamp.from_msgpack_ext(data)
      Time.at(stamp.sec, stamp.nsec, :nanosecond).utc
    end
    # {"op": "end", "id": ..., "msgs": [...]}, up to the id and from there.
    HEADS = %w[out end].to_h { |op| [op, "\x83\xA2op\xA3#{op}\xA2id\xCF".b.freeze] }.freeze
    MSGS = "\xA4msgs\xDD".b.freeze
    AROUND = HEADS["end"].size + 8 + MSGS.size + 4

    def initialize(max_frame = MAX_FRAME)
      super(max_frame, binary: true)
      @factory = MessagePack::Factory.new
      @factory.register_type(-1, Time, packer: MessagePack::Time::Packer, unpacker: TO_TIME)
      # Quicker than a new one each time by half, and not for two threads: the session's locks see
      # to that.
      @packer = @factory.packer
      @unpacker = @factory.unpacker(symbolize_keys: true)
      @buffer = @unpacker.buffer
    end

    def name = "msgpack"

    def separator = ""

    def dump(value)
      @packer.write(value).full_pack
    rescue StandardError
      @packer.buffer.clear # of what it had packed so far
      raise
    end

    def load(data)
      @unpacker.feed(data)
      value = @unpacker.read
      return value if @buffer.empty? || @buffer.read.strip.empty?

      raise MessagePack::MalformedFormatError, "there are bytes after the message"
    end

    def frame(fields)
      packed = @factory.dump(fields)
      [packed.bytesize].pack("N") << packed
    end

    # @param data [String, nil] *count* results that are packed already
    def results(op, number, count, data)
      data ||= ""
      [AROUND + data.bytesize, HEADS[op], number, MSGS, count, data].pack("Na*Q>a*Na*")
    end

    # The frames that are complete with these bytes. Fed at once, as that costs half of one by one.
    def each_frame(data)
      @input << data
      count, complete = measure
      return if count.zero?

      @unpacker.feed(@input.slice!(0, complete))
      count.times do
        @buffer.skip(4)
        yield @unpacker.read
      end
    end

    private

    # How many frames are complete, and where the last of them ends.
    def measure
      count = at = 0
      while (low = @input.getbyte(at + 3))
        length = @input.getbyte(at) << 24 | @input.getbyte(at + 1) << 16 | @input.getbyte(at + 2) << 8 | low
        check_size(length)
        break if at + 4 + length > @input.bytesize

        at += 4 + length
        count += 1
      end
      [count, at]
    end
  end
end
