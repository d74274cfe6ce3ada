# frozen_string_literal: true

require "msgpack"

module Emit
  # A frame is its length in 4 bytes, and one map.
  class Msgpack < Codec
    TO_TIME = lambda do |data|
      stamp = MessagePack::Timestamp.from_msgpack_ext(data)
      Time.at(stamp.sec, stamp.nsec, :nanosecond).utc
    end
    HEAD = "\x83\xA2op\xA3".b.freeze
    ID = "\xA2id\xCF".b.freeze
    MSGS = "\xA4msgs\xDD".b.freeze
    AROUND = HEAD.size + 3 + ID.size + 8 + MSGS.size + 4

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

    def dump(value) = @packer.write(value).full_pack

    def load(data)
      @unpacker.feed(data)
      value = @unpacker.read
      raise MessagePack::MalformedFormatError, "bytes after the message" unless @buffer.empty? || @buffer.read == "\n"

      value
    end

    def frame(fields)
      packed = @factory.dump(fields)
      [packed.bytesize].pack("N") << packed
    end

    # {"op": op, "id": number, "msgs": [...]} around results that are packed already.
    def results(op, number, parts)
      packed = parts.size == 1 ? parts[0] : parts.join
      [AROUND + packed.bytesize, HEAD, op, ID, number, MSGS, parts.size, packed].pack("Na*a*a*Q>a*Na*")
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
