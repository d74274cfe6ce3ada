# frozen_string_literal: true

require "msgpack"

module Emit
  # A frame is its length in 4 bytes, and one map.
  class Msgpack < Codec
    TO_TIME = lambda do |data|
      stamp = MessagePack::Timestamp.from_msgpack_ext(data)
      Time.at(stamp.sec, stamp.nsec, :nanosecond).utc
    end
    # Room for the length, and {"op": ..., "id": up to the number.
    HEADS = %w[out end ends].to_h do |op|
      [op, ("\0\0\0\0\x83\xA2op".b << (0xA0 + op.size) << op << "\xA2id".b).freeze]
    end.freeze
    MSGS = "\xA4msgs".b.freeze

    def initialize(max_frame = MAX_FRAME)
      super(max_frame, binary: true)
      @factory = MessagePack::Factory.new
      @factory.register_type(-1, Time, packer: MessagePack::Time::Packer, unpacker: TO_TIME)
      # Faster than a new one each time by half, but not thread-safe: the session's locks guard it.
      @packer = @factory.packer
      @unpacker = @factory.unpacker(symbolize_keys: true)
      @input = @unpacker.buffer
      @output = @packer.buffer
    end

    def name = "msgpack"

    def separator = ""

    def dump(value)
      packed = @packer.write(value).full_pack
    ensure # after a Timeout, too
      @output.clear unless packed # the part it had packed so far
    end

    def load(data)
      @unpacker.feed(data)
      value = @unpacker.read
      return value if @input.empty? || @input.read.strip.empty?

      raise MessagePack::MalformedFormatError, "there are bytes after the message"
    end

    def frame(fields)
      packed = @factory.dump(fields)
      [packed.bytesize].pack("N") << packed
    end

    # @param data [String, nil] *count* values that are packed already
    def list(count, data)
      head = @packer.write_array_header(count).full_pack
      data ? head << data : head
    end

    # Encode the list of a call with one result.
    #
    # @raise [EncodeError] with the path to the value that cannot be carried
    def one(value)
      value = @values.clean(value) unless @values.plain?(value)
      packed = @packer.write_array_header(1).write(value).full_pack
    rescue RangeError
      @values.clean(value) # says where the fault is
      raise
    ensure # after a Timeout, too
      @output.clear unless packed # the part it had packed so far
    end

    # @param list [String] the frame's `msgs`, packed
    def results(op, number, list)
      @output << HEADS[op]
      @packer.write(number)
      @output << MSGS << list
      packed = measure(@packer.full_pack)
    ensure
      @output.clear unless packed
    end

    # Add received bytes.
    def feed(data)
      @unpacker.feed(data)
    end

    # Yield the complete frames. The block may break off; the next call goes on.
    #
    # @return [Boolean] true if there were any
    def each_frame
      any = false
      left = @input.size
      while left >= (@length || 4)
        if @length
          left -= @length
          @length = nil
          any = true
          yield @unpacker.read
        else
          left -= 4
          @length = @input.read(4).unpack1("N")
          raise too_large if @length > @max_frame
        end
      end
      any
    end

    private

    # Puts the frame's length in front. Its first byte is 0 in any frame of 16 MB at most.
    def measure(frame)
      length = frame.bytesize - 4
      frame.setbyte(3, length & 255)
      return frame if length < 256

      frame.setbyte(2, length >> 8 & 255)
      frame.setbyte(1, length >> 16)
      frame
    end
  end
end
