# frozen_string_literal: true

require "json"
require "open3"
require "rbconfig"
require "tmpdir"

LIB = File.expand_path("../lib", __dir__)
HELLO = { op: "hello", v: [1], codecs: ["json"], node: "x", max_frame: (1 << 24) - 1 }.freeze

# The other end of the pipes: a program of nodes, and its frames in JSON.
class Host
  attr_reader :ready, :pid, :complaints

  def self.serving(program, *options, hello: HELLO)
    Dir.mktmpdir do |folder|
      file = File.join(folder, "program.rb")
      File.write(file, program)
      host = new([RbConfig.ruby, "-w", *options, "-I#{LIB}", "-remit", file], hello)
      yield host
    ensure
      host&.close
    end
  end

  def initialize(command, hello = HELLO)
    @input, @output, @errors, @process = Open3.popen3(*command)
    @pid = @process.pid
    @errors_read = Thread.new { @errors.read }
    write(hello)
    @ready = read
  end

  def write(*frames)
    @input.write(frames.map { |frame| "#{JSON.generate(frame)}\n" }.join)
  end

  def read
    line = @output.gets
    line = @output.gets while line == "\n"
    line && JSON.parse(line, symbolize_names: true)
  end

  def ask(node, id: 1, **msg)
    write({ op: "call", id: id, node: node, msg: msg })
  end

  # The frame that ends the next call, with the results of the frames before it.
  def answer
    results = []
    while (frame = read) && frame[:op] == "out"
      results.concat(frame[:msgs])
    end
    frame[:op] == "end" ? frame.merge(msgs: results + frame[:msgs]) : frame
  end

  def call(node, id: 1, **msg)
    ask(node, id: id, **msg)
    answer
  end

  def stop_reading = @output.close

  # @return [Array(Process::Status, String)] how it ended, and what it wrote to stderr
  def finish
    @input.close
    [@process.value, @errors_read.value]
  end

  def close
    [@input, @output].each { |io| io.close unless io.closed? }
    @process.value
  end
end
