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
      @sink.write(Json.new.frame(Serve.ready(@nodes, @concurrency))) if ENV["EMIT_PROBE"] == "1"
      packed = first && first.getbyte(0).to_i >= 0x80 # the first byte of a msgpack map, and of no JSON
      codec = Codec.choose(packed ? ["msgpack"] : [])
      failures = messages(first, packed).count { |raw| !answered?(raw, codec) }
      exit(1) if failures.positive?
    rescue Errno::EPIPE
      exit(0) # as of `| head -1`: the reader has what it wanted
    end

    private

    # One message per line, or one document over several lines, or the one of the environment.
    def messages(first, packed)
      return [] unless first

      lines = ENV.key?("EMIT_MSG") ? [] : @source.each_line
      return [[first, *lines].join] if packed || !complete?(first)

      [first].each.chain(lines).lazy.reject { |line| line.strip.empty? }
    end

    def complete?(line)
      JSON.parse(line)
      true
    rescue JSON::ParserError
      false
    end

    def answered?(raw, codec)
      emit = ->(value) { @sink.write(codec.value(value) << "\n") }
      result = chosen.run(codec.load(raw), &emit)
      emit.call(result) unless result.nil?
      true
    rescue Errno::EPIPE, SystemExit
      raise
    rescue StandardError, ScriptError => error
      complain(error)
      false
    end

    def chosen
      name = ENV["EMIT_NODE"] || (@nodes.keys.first if @nodes.size == 1)
      @nodes[name] || raise(KeyError, "set EMIT_NODE to one of: #{@nodes.keys.join(', ')}")
    end

    def complain(error)
      error.set_backtrace(Failure.stack(error)) unless error.frozen?
      warn error.full_message(highlight: STDERR.tty?, order: :top)
    end
  end
end
