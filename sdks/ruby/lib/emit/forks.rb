# frozen_string_literal: true

module Emit
  # Notices that this process has been forked.
  module Forks
    # @yield in the child, before it does anything else
    def self.watch(&forked)
      if Process.respond_to?(:_fork)
        hook = Module.new { define_method(:_fork) { super().tap { |pid| forked.call if pid.zero? } } }
        return Process.singleton_class.prepend(hook)
      end

      # Ruby 3.0 has no `_fork`, only these callers of it.
      [Process, Kernel].each { |owner| owner.singleton_class.prepend(hook(forked)) }
      Kernel.prepend(hook(forked).tap { |hook| hook.send(:private, :fork) })
    end

    def self.hook(forked)
      Module.new do
        define_method(:fork) do |&block|
          child = proc { [forked.call, block.call] } if block
          super(&child).tap { |pid| forked.call unless pid }
        end
      end
    end
    private_class_method :hook
  end
end
