# frozen_string_literal: true

require "logger"

module Emit
  # A Logger whose lines reach the host, with the call they belong to. By hand, they go to stderr.
  class Log < ::Logger
    LEVELS = { "WARN" => "warning", "FATAL" => "critical", "ANY" => "critical" }.freeze

    # Writes the lines: as frames under a host.
    class Device
      def write(line)
        session = Serve.session
        return STDERR.write("#{line[:level]}: #{line[:text]}\n") unless session

        id = Emit.context.id
        session.tell({ op: "log", **line, **(id ? { id: id } : {}) })
      end

      def close; end
    end

    def initialize
      super(Device.new, level: INFO, formatter: ->(_, _, _, message) { text_of(message) })
    end

    private

    def text_of(message)
      case message
      when String then message
      when Exception then "#{message.message} (#{message.class})"
      else message.inspect
      end
    end

    # The device receives the return value, and needs the level.
    def format_message(severity, *rest)
      { level: LEVELS.fetch(severity, severity.downcase), text: Failure.text(super) }
    end
  end
end
