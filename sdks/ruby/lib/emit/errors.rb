# frozen_string_literal: true

module Emit
  # Raise it to get the same message again.
  class Retry < StandardError
    # @return [Numeric, nil] seconds from now; nil leaves the time to the host
    attr_reader :after

    # @param text [String] the reason, for the log
    # @param after [Numeric, nil] seconds to wait, from 0 up
    # @raise [ArgumentError] for any other *after*
    def initialize(text = "try again", after: nil)
      unless after.nil? || (after.is_a?(Numeric) && after >= 0 && after.finite?)
        raise ArgumentError, "after must be seconds from 0 up, not #{after.inspect}"
      end

      super(text)
      @after = after
    end
  end

  # Raise it when no attempt with this message can succeed.
  class Reject < StandardError; end

  # The wire cannot carry a result unchanged. The text says which part of it, and why.
  class EncodeError < ArgumentError; end

  # A result, or a frame from the host, beyond `max_frame`. Nothing of it was written.
  class FrameTooLarge < EncodeError; end

  # The host has cancelled the call. A handler gets it unless it asks `Emit.context.cancelled?`. It
  # is no StandardError, so that a plain `rescue` does not swallow it. Clean up in an `ensure`.
  class Cancelled < Exception; end

  # Errors in the form of the wire: type, text, the author's lines first, causes.
  module Failure
    MOST = 8192
    @ours = ["#{__dir__}/", "#{__dir__}.rb:"]

    module_function

    # @return [Array<String>] the beginnings of stack lines that are not the author's
    def ours = Failure.instance_variable_get(:@ours)

    def describe(error, depth = 4)
      about = { type: error.class.to_s, message: text_of(error), stack: stack(error) }
      about[:cause] = describe(error.cause, depth - 1) if error.cause && depth.positive?
      about[:retry] = error.is_a?(Retry) if error.is_a?(Retry) || error.is_a?(Reject)
      about[:after] = error.after.to_f if error.is_a?(Retry) && error.after
      about
    end

    # True if an error, or one that caused it, is a timeout. By name: each library has its own.
    def timeout?(error, depth = 4)
      return false if error.nil? || depth.zero?

      named = error.class.ancestors.any? { |kind| kind.to_s.match?(/Timeout|ETIMEDOUT/) }
      named || timeout?(error.cause, depth - 1)
    end

    # Innermost first, but the author's lines before those of libraries, and none of the SDK's.
    def stack(error)
      lines = (error.backtrace || []).reject { |line| line.start_with?(*ours) }
      own, theirs = lines.partition { |line| !line.start_with?("<internal:", *libraries) }
      own.unshift(error.message[/\A\S+?:\d+/]) if error.is_a?(SyntaxError) # no line was reached
      (own + theirs).compact.first(40).map { |line| text(line, 400) }
    end

    def libraries
      @libraries ||= [RbConfig::CONFIG["rubylibprefix"], *(defined?(Gem) ? Gem.path : [])]
    end

    def text_of(error)
      return "the handler ended the process: exit(#{error.status})" if error.is_a?(SystemExit)

      text(error.message)
    rescue Exception => failure # an author's own `message` may fail as well
      "(no text: message raised #{failure.class})"
    end

    # Return valid UTF-8 for any text: Ruby's own error texts are sometimes binary.
    def text(value, most = MOST)
      text = value.to_s.dup
      text.force_encoding(Encoding::UTF_8) if text.encoding == Encoding::BINARY
      text = text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace)
      text = text.scrub { |bytes| bytes.unpack("C*").map { |byte| format("\\x%02x", byte) }.join }
      text.size <= most ? text : "#{text[0, most]}... (#{text.size} characters)"
    end
  end
end
