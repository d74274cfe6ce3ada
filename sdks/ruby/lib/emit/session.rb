# frozen_string_literal: true

require "monitor"

module Emit
  # The calls of one process under a host.
  #
  # The main thread reads. With a concurrency of 1 it runs the calls as well: a hop between threads
  # costs more than most handlers do. Otherwise threads run them.
  class Session
    ENOUGH = 16 * 1024 # Bytes of results that are worth a frame, or a write, of their own.
    SMALL = 512 # Bytes of an answer that may share a frame with others.
    LINGER = 0.001 # Seconds that a finished result may wait for company.
    LONG = 0.004 # Seconds: what the slowest of recent calls counts for, at most.
    TICK = 0.1 # Seconds between two looks at a busy main thread.
    GRACE = 4.0 # Seconds from seeing the end to the exit: 5 in all, as `watch` looks only now and then.
    # Calls that are decoded before they run. With a whole slice, a garbage collection would
    # sometimes count its calls as old, and have twice the work. A group counts as a whole.
    AHEAD = 8
    # When `Cancelled` may reach a thread: only in a handler, never in the code around it.
    SHELTERED = { Cancelled => :never }.freeze
    REACHABLE = { Cancelled => :immediate }.freeze
    ROOM = 64 # Bytes of a frame beside its results.
    PARENT = Process.ppid

    # @param nodes [Hash{String => Node}]
    # @param concurrency [Integer] calls that run at a time
    # @param wire [Array(IO, IO)]
    def initialize(nodes, concurrency, wire)
      @nodes = nodes
      @concurrency = concurrency
      @inline = concurrency == 1
      @ahead = AHEAD if @inline
      @source, @sink = wire
      @slice = String.new(capacity: Frames::SLICE)
      @reading = Mutex.new # guards the source and its decoder
      @lock = Monitor.new # guards everything below; reentrant, as a finalizer may log
      @idle = @lock.new_cond
      @codec = Json.new
      @open = {}
      @waiting = @inline ? [] : Thread::Queue.new
      @partial = {} # calls with results that are in no frame yet
      @unsent = String.new
      @gathered = nil # the results, encoded, of calls that follow one another
      @first = @count = 0 # the first of these calls, and how many they are
      @oldest = 0.0 # when the oldest unsent result came
      @pace = LONG # how long the slowest of recent calls took; until it is known: long
      @slots = []
      @due = Thread::Queue.new
      @pid = Process.pid
    end

    # Serve until the input ends.
    #
    # @param hello [Hash] the host's first frame
    def run(hello)
      @slot = take_slot
      @preferred = hello[:node]
      @only = @nodes.keys.first if @nodes.size == 1 # a program with one node serves it under any name
      @max_frame = hello[:max_frame] || Codec::MAX_FRAME
      @most = @max_frame - ROOM
      @enough = [ENOUGH, @most].min
      @small = [SMALL, @most].min
      trap_signals
      codec = Codec.choose(hello[:codecs] || [], @max_frame)
      tell(fitting(Serve.ready(@nodes, @concurrency).merge(codec: codec.name)))
      @codec = codec
      start_threads
      Thread.handle_interrupt(SHELTERED) { converse }
    end

    # Tell the host that no results will follow. At once: a handler may be busy for long.
    def give_up(error)
      tell({ op: "err", id: nil }.merge(Failure.describe(error)))
      @broken = @gone = true
      @waiting.clear
      end_calls
    end

    def broken? = @broken

    # A `cancel`, or the end, may wait in the pipe while the main thread is busy with a handler.
    def look
      return unless @reading.try_lock

      begin
        receive_frames
        read_slice && receive_frames while !@ended && IO.select([@source], nil, nil, 0)
      ensure
        @reading.unlock
      end
    end

    # Send a frame now, with everything that waits.
    def tell(fields)
      @lock.synchronize do
        put(fit(fields))
        write
      end
    end

    # Emit one of several results of a call.
    #
    # @raise [EncodeError] the wire cannot carry it
    def emit(call, value)
      @lock.synchronize do
        raise IOError, "the call is over, and nothing can be emitted any more" unless @open.key?(call.id)

        part = encode(call, value)
        flush(call) if call.data && call.data.bytesize + part.bytesize > @enough
        call.add(part, @codec.separator)
        @partial[call.id] = call
        # flush_late cannot run while a handler computes.
        Emit.now - call.since > LINGER ? flush(call) : arm
      end
    end

    # A forked child must not answer for this process, nor keep its pipes open.
    def forget
      @gone = true
      @open.clear
      @waiting.clear
      @source.reopen(File::NULL)
      @sink.reopen(File::NULL, "w")
      trap("INT", "DEFAULT")
      trap("TERM", "DEFAULT")
    end

    private

    # A block, since the author's child processes would inherit "IGNORE". Ctrl-C reaches every
    # process of a terminal, and the host decides.
    def trap_signals
      trap("INT") { nil }
      trap("TERM") { end_input }
    end

    # A blocked read is tried again after a signal, and finds the end. Input that was read before is
    # kept, and no exception passes through the author's code.
    def end_input
      @leaving ||= Emit.now
      @source.reopen(File::NULL)
    end

    def start_threads
      Forks.watch { forget }
      Thread.new { flush_late }
      Thread.new { watch }
      @concurrency.times { start_runner } unless @inline
    end

    def start_runner
      Thread.new do
        slot = take_slot
        Thread.handle_interrupt(SHELTERED) do
          while (call = @waiting.pop)
            run_call(call, slot)
          end
        end
      ensure # also after a handler that ended its thread
        @slots.delete(slot)
        start_runner unless @waiting.closed?
      end
    end

    # A slot has the call at work, and the thread that works on it.
    def take_slot
      slot = Emit.slot
      slot[1] = Thread.current
      @slots << slot
      slot
    end

    def converse
      until @ended || @gone
        @reading.synchronize { receive_frames(@ahead) } || read
        run_waiting if @inline
      end
      @leaving ||= Emit.now
      if @inline
        run_waiting
        @lock.synchronize { write }
      else
        @waiting.close
      end
      @lock.synchronize { @idle.wait until @open.empty? || @gone } # `watch` enforces the limit
    end

    # Frames in

    # A write may be stuck for ever. `look` must see the end meanwhile, and the calls it has read
    # still have to run.
    def read
      @lock.synchronize { write } if @inline
      @reading.synchronize { read_slice unless @ended || (@inline && @waiting.any?) }
    end

    def read_slice
      @codec.feed(@source.readpartial(Frames::SLICE, @slice))
    rescue EOFError
      end_calls
    end

    # @param most [Integer, nil] calls that may wait when it stops
    # @return [Boolean] true if there were any
    def receive_frames(most = nil)
      @codec.each_frame do |frame|
        receive(frame)
        break true if most && @waiting.size >= most
      end
    rescue StandardError => error # the input is not a frame
      give_up(error)
    end

    def end_calls
      @ended = true
      @leaving ||= Emit.now
    end

    def receive(frame)
      case frame[:op] # an unknown frame comes from a newer host
      when "calls" then accept_group(frame)
      when "call" then accept_one(frame)
      when "cancel" then cancel(@open[frame[:id]])
      when "ping" then tell({ op: "pong", n: frame[:n] })
      when "bye" then end_calls
      end
    end

    def accept_one(frame)
      wrong = misfit(frame)
      return refuse_broken(frame, wrong) if wrong

      accept(frame[:id], frame[:msg], @only || frame[:node] || @preferred, frame[:meta])
    end

    # A broken group ends the process: its id is not enough to answer all of its calls.
    #
    # @raise [ArgumentError]
    def accept_group(frame)
      wrong = misfit_in_group(frame)
      raise ArgumentError, "calls of the host lack their #{wrong}, or it is of another type" if wrong

      @groups = true
      node = @only || frame[:node] || @preferred
      id, meta, metas = frame.values_at(:id, :meta, :metas)
      frame[:msgs].each_with_index do |msg, at|
        own = metas && metas[at]
        accept(id + at, msg, node, own && meta ? meta.merge(own) : own || meta)
      end
    end

    def accept(id, msg, node, meta)
      @waiting << (@open[id] = Call.new(self, node, id, msg, meta))
    end

    # Name the field that breaks a call of the host. The id comes first: it identifies the call.
    def misfit(call)
      return :id unless call[:id].is_a?(Integer)
      return :msg unless call[:msg].is_a?(Hash)

      misfit_around(call)
    end

    def misfit_in_group(calls)
      id, msgs, metas = calls.values_at(:id, :msgs, :metas)
      return :id unless id.is_a?(Integer)
      return :msgs unless msgs.is_a?(Array) && msgs.any? && msgs.all?(Hash)

      fit = metas.nil? || (metas.is_a?(Array) && metas.size == msgs.size && metas.compact.all?(Hash))
      fit ? misfit_around(calls) : :metas
    end

    def misfit_around(call)
      return :node unless call[:node].nil? || call[:node].is_a?(String)

      :meta unless call[:meta].nil? || call[:meta].is_a?(Hash)
    end

    # @raise [ArgumentError] the frame has no id to answer to
    def refuse_broken(frame, field)
      error = ArgumentError.new("a call of the host lacks its #{field}, or it is of another type")
      raise error if field == :id

      tell({ op: "err", id: frame[:id] }.merge(Failure.describe(error)))
    end

    # Cancel a call. A handler that asks `cancelled?` will see it; any other is interrupted.
    def cancel(call)
      return unless call

      call.cancel
      return if call.asks

      @lock.synchronize do
        slot = @slots.find { |each| each[0].equal?(call) }
        next unless slot && @open.key?(call.id)

        slot[2] = true # `run_call` waits for the exception, or drops it
        slot[1].raise(Cancelled, "cancelled by the host")
      end
    end

    # Calls

    def run_waiting
      @now = Emit.now
      slot = @slot
      while !@gone && (call = @waiting.shift)
        arm if !@armed && unsent?
        run_call(call, slot)
      end
      slot[0] = nil
    end

    # @param slot [Array] the slot of this thread, where `Emit.context` looks
    def run_call(call, slot)
      slot[0] = call
      call.start(@inline ? @now : Emit.now)
      node = @nodes[call.node]
      check_call(call) if call.cancelled || !node
      result = Thread.handle_interrupt(REACHABLE) { node.run(call.msg, call) }
      @lock.synchronize { finish(call, result) }
      answered = true
    rescue Exception => error # a SystemExit has to answer the call, too
      refuse(call, error)
    ensure # Thread.exit raises nothing
      refuse(call, ThreadError.new("the handler ended its thread")) unless answered
      drop_interrupt(slot) if slot[2]
    end

    # The exception has come too late, or is on its way to a handler that has returned.
    def drop_interrupt(slot)
      slot[2] = nil
      Thread.handle_interrupt(REACHABLE) { Thread.pass }
    rescue Cancelled
      nil
    end

    # Return the reason why a call cannot run, or nil.
    def check_call(call)
      raise Cancelled, "cancelled by the host before it began" if call.cancelled

      raise Serve.absent(call.node, @nodes)
    end

    # Frames out

    # @raise [EncodeError] the wire cannot carry it
    def encode(call, value)
      part = @codec.value(value)
      check(call, value, part.bytesize) if part.bytesize > @enough
      part
    end

    def check(call, value, size)
      if size + ROOM > Values::MEMBERS && Values.members(value) > Values::MEMBERS - 100 # some for the frame
        raise EncodeError, "#{call.node} emitted a result of over #{Values::MEMBERS - 100} members"
      end
      return if size <= @most

      other = @max_frame < Codec::MAX_FRAME ? "raise max_frame of the node" : "pass a path"
      raise FrameTooLarge, "#{call.node} emitted a result of #{size} bytes; a frame holds at most " \
                           "#{@max_frame}: emit less at once, or #{other}"
    end

    # Send the results of a call so far, and everything else that waits.
    def flush(call)
      uninterrupted do
        put_partial(call)
        write
      end
    end

    def put_partial(call)
      put(@codec.results("out", call.id, @codec.list(call.count, call.data))) if call.data
      call.empty
      @partial.delete(call.id)
    end

    def refuse(call, error)
      @lock.synchronize do
        next unless @open.key?(call.id)

        about = Failure.describe(error)
        about[:timeout] = true if !about.key?(:retry) && call.timeout?(error)
        close(call)
        put(fit({ op: "err", id: call.id }.merge(about)))
        settle
      end
    end

    # Leave out the inputs if the frame is too large. They are for people, and grow with the
    # program.
    #
    # @raise [FrameTooLarge] the frame is too large without them, too
    def fitting(ready)
      size = nil
      [ready, ready.merge(inputs: {}, outputs: {})].each do |fields|
        size = @codec.frame(fields).bytesize - 2
        return fields if size <= @max_frame
      end
      raise FrameTooLarge, "the ready frame of this program takes #{size} bytes, and a frame holds at most " \
                           "#{@max_frame}: raise max_frame of the node"
    end

    # An err or a log over max_frame would be lost whole, so its longest parts are cut.
    def fit(fields)
      frame = @codec.frame(fields)
      return frame if frame.bytesize <= @max_frame || !%w[err log].include?(fields[:op])

      text = fields.key?(:message) ? :message : :text
      most = [0, @max_frame - 200].max / 6 # a character takes up to 6 bytes of JSON
      @codec.frame(fields.reject { |key, _| %i[stack cause].include?(key) }.merge(text => fields[text][0, most]))
    end

    # The end of a call carries its last results: the only result of most calls.
    #
    # @raise [EncodeError] the wire cannot carry one
    def finish(call, result)
      if result.nil?
        list = @codec.list(call.data ? call.count : 0, call.data)
      else
        put_partial(call) if call.data
        list = @codec.one(result)
        check(call, result, list.bytesize) if list.bytesize > @enough
      end
      close(call)
      gather(call.id, list)
      settle
    end

    # The answer of the call is complete, and is about to be put among the unsent ones.
    def close(call)
      @open.delete(call.id)
      @partial.delete(call.id) if call.data
      now = Emit.now
      if @inline
        taken = now - @now
        @pace = taken > @pace ? [taken, LONG].min : @pace * 0.9
      end
      @now = now
      @oldest = now unless unsent?
    end

    # Put the results that end a call beside those of the call before it, if a host that knows
    # groups can take them in one frame.
    def gather(id, list)
      small = @groups && list.bytesize <= @small
      if @gathered && small && id == @first + @count && @gathered.bytesize + list.bytesize < @enough
        @gathered << @codec.separator << list
        return @count += 1
      end
      put_ends
      @gathered = list
      @first = id
      @count = 1
      put_ends unless small
    end

    def put_ends
      return unless @gathered

      ending = @count == 1 ? ["end", @first, @gathered] : ["ends", @first, @codec.list(@count, @gathered)]
      @gathered = nil
      @unsent << @codec.results(*ending)
    end

    def put(frame)
      put_ends
      @unsent << frame
    end

    def unsent? = @gathered || !@unsent.empty?

    # Write if enough waits or it has waited long enough. If recent calls were slow, do not let it
    # wait for the next one.
    def settle
      late = @unsent.bytesize >= ENOUGH || @now - @oldest >= LINGER
      return (late || @pace > LINGER) && write if @inline

      late || @waiting.empty? ? write : arm
      @idle.signal
    end

    def write
      return if @writing # called by a finalizer: the loop below takes its frame along

      forget if Process.pid != @pid # as Process.daemon does, and IO.popen("-") in Ruby 3.0, unnoticed
      uninterrupted { write_all }
    end

    def write_all
      @writing = true
      put_ends
      until @unsent.empty? || @gone
        data = @unsent
        @unsent = String.new(capacity: 2 * ENOUGH)
        @sink.write(data)
        put_ends
      end
    rescue SystemCallError, IOError # nobody reads any more
      @gone = true
    ensure
      @writing = false
    end

    # Timeout.timeout in a handler must not cut a frame in two.
    def uninterrupted(&block)
      Thread.handle_interrupt(Object => :never, &block)
    end

    def arm
      return if @armed

      @armed = true
      @due << true
    end

    # So that no result waits for a slow handler: the next one's or its own.
    def flush_late
      while @due.pop
        sleep LINGER
        @lock.synchronize do
          @armed = false
          @partial.values.each { |call| put_partial(call) }
          write
        end
      end
    end

    # The end

    # The main thread may be busy in a handler, so this thread watches for a cancel and for the
    # host's end.
    def watch
      loop do
        call = @slot[0]
        sleep TICK
        look if call.equal?(@slot[0])
        # Not 1: in a container the host may be process 1.
        Process.kill("TERM", Process.pid) if @gone || Process.ppid != PARENT
        exit!(1) if @leaving && Emit.now - @leaving > GRACE
      end
    end
  end
end
