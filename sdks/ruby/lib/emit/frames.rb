# frozen_string_literal: true

module Emit
  # Frames: the two private descriptors.
  module Frames
    SLICE = 64 * 1024 # Bytes per read: the host refills the pipe while this slice is worked on.

    module_function

    # Take descriptors 0 and 1 away from all other code, and return private ones: a reader, a
    # writer.
    #
    # Afterwards a read finds the end of input. A print goes to stderr, also one of a library or a
    # child process. A terminal stays, as does any input with EMIT_MSG: they are for a debugger.
    #
    # @return [Array(IO, IO)]
    def take
      @take ||= [STDIN.dup, STDOUT.dup].each do |io| # Ruby's dup makes them close-on-exec
        io.binmode
        io.sync = true
      end.tap { redirect }
    end

    def redirect
      STDIN.reopen(File::NULL) unless STDIN.tty? || ENV.key?("EMIT_MSG")
      STDOUT.reopen(STDERR)
      STDOUT.sync = true
    end

    # @return [String, nil] the first line that is not blank
    def first_line(source)
      line = source.gets
      line = source.gets while line&.strip&.empty?
      line
    end

    # @return [Hash, nil] the `hello` frame in *line*, if it is one
    def hello(line)
      return nil unless line

      frame = JSON.parse(line.dup, symbolize_names: true) # dup: it may change the encoding
      frame if frame.is_a?(Hash) && frame[:op] == "hello"
    rescue JSON::ParserError, EncodingError
      nil
    end
  end
end
