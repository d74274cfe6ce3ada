# frozen_string_literal: true

module Emit
  VERSION = "0.5.0"
end
