# frozen_string_literal: true

module Emit
  # No host: messages in, one line per result out.
  class Plain
    def initialize(nodes, concurrency, wire)
      @nodes = nodes
      @concurrency = concurrency
      @source, @sink = wire
    end

    # @param first [String, nil] the first line, or the message of the environment
    def run(first)
      probed = ENV.delete("EMIT_PROBE") == "1" # hidden from programs that a handler starts
      @sink.write(Json.new.frame(Serve.ready(@nodes, @concurrency))) if probed
      packed = first && first.getbyte(0).to_i >= 0x80 # the first byte of a msgpack map, never of JSON
      @codec = Codec.choose(packed ? ["msgpack"] : [])
      failures = messages(first, packed).count { |raw| !answered?(raw) }
      exit(1) if failures.positive?
      emit(nil, { op: "end", id: nil }) if probed # tells the host that no handler ended the process
    rescue Errno::EPIPE
      exit(0) # as with `| head -1`: the reader has enough
    end

    def emit(_call, value)
      @sink.write(@codec.value(value) << "\n")
    end

    def look; end

    private

    # One message per line, one document over several lines, or the message in the environment.
    def messages(first, packed)
      return [] if first.to_s.b.strip.empty?

      lines = ENV.key?("EMIT_MSG") ? [] : @source.each_line
      return [[first, *lines].join] if packed || !complete?(first)

      [first].each.chain(lines).lazy.reject { |line| line.strip.empty? }
    end

    def complete?(line)
      JSON.parse(line.dup)
      true
    rescue JSON::ParserError, EncodingError
      false
    end

    def answered?(raw)
      call = Call.new(self, chosen.name)
      Emit.slot[0] = call
      result = chosen.run(@codec.load(raw), call)
      call << result unless result.nil?
      true
    rescue Errno::EPIPE
      raise
    rescue SystemExit => error
      warn Failure.text_of(error)
      exit(1)
    rescue StandardError, ScriptError => error
      complain(error)
      false
    end

    def chosen
      return @nodes.values.first if @nodes.size == 1

      name = ENV.fetch("EMIT_NODE", "")
      raise KeyError, "set EMIT_NODE to one of the program's nodes: #{@nodes.keys.join(', ')}" if name.empty?

      @nodes[name] || raise(Serve.absent(name, @nodes))
    end

    def complain(error)
      stack = Failure.stack(error)
      error.set_backtrace(stack) unless error.frozen?
      # For an error without a line, Ruby would name the line that asks for the message.
      warn stack.empty? ? "#{error.message} (#{error.class})" : error.full_message(highlight: STDERR.tty?, order: :top)
    end
  end
end
