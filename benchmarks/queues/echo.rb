require "emit"

form = ARGV.fetch(0)
done = File.open("#{ENV.fetch('BENCH_DONE')}/#{form}", "a")
done.sync = true

if form == "alone"
  # As the program of an SDK without groups.
  Emit::Serve.singleton_class.prepend(Module.new { def ready(*) = super.merge(caps: %w[cancel end]) })
end

Emit.node do |msg|
  done.write(".")
  msg["word"]
end
