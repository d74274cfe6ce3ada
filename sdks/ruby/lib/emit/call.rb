# frozen_string_literal: true

module Emit
  # One message given to a handler: what `Emit.context` returns, and what a second parameter gets.
  class Call
    EARLY = 0.005 # Seconds by which a timer may go off before its time.

    # What the session keeps with a call; no author needs these.
    attr_reader :cancelled, :data, :count, :since

    # @return [String, nil] name of the node that was called
    attr_reader :node

    # @return [Integer, nil] the call's number in this process; nil outside of a host
    attr_reader :id

    attr_reader :msg

    # @param home [#emit, #look, #config] where it is run: under a host, the session
    def initialize(home = nil, node = nil, id = nil, msg = nil, meta = nil)
      @home = home
      @node = node
      @id = id
      @msg = msg
      @meta = meta
    end

    # Its turn has come, and so its time begins: calls are sent ahead, and wait.
    def start
      left = @meta && @meta[:deadline_ms]
      @deadline = Emit.now + left / 1000.0 if left
    end

    # Whether *error* is the deadline's: one of a timeout, raised when the deadline has passed.
    def timeout?(error)
      return false unless @deadline && Emit.now > @deadline - EARLY

      Failure.timeout?(error)
    end

    # @return [String, nil] name of the node that emitted the message
    def origin = @meta && @meta[:origin]

    # @return [Integer] which attempt this is, counted by the host: 1 is the first
    def attempt = (@meta && @meta[:attempt]) || 1

    # @return [String, nil] the sender's W3C trace context
    def traceparent = @meta && @meta[:traceparent]

    # @return [Hash] the node's configuration at the host
    def config = @home ? @home.config : {}

    # The time of a call begins when its handler is called. A handler that fails with a timeout
    # (`Timeout::Error`, `IO::TimeoutError`, ...) when it has passed is tried again.
    #
    # @return [Float, nil] seconds until the deadline, below 0 when it has passed; nil without one
    def remaining = @deadline && @deadline - Emit.now

    # Whether the host has cancelled this call. A long handler asks now and then.
    def cancelled?
      @home&.look
      @cancelled ? true : false
    end

    # Emit one of several results: the call is what a handler gets as `out`.
    #
    # @return [Call] itself, so that one may push several in a row
    # @raise [EncodeError] it cannot be carried
    def <<(value)
      @home.emit(self, value)
      self
    end

    def cancel
      @cancelled = true
    end

    # Results wait here, encoded, until there are enough of them for a frame.
    def add(part, separator)
      if @data
        @data << separator << part
        @count += 1
      else
        @since = Emit.now
        @data = part
        @count = 1
      end
    end

    def empty
      @data = nil
    end
  end
end
