# Start a Redis for the example that sources this file, unless REDIS_URL names one.
if [ -z "$REDIS_URL" ]; then
  redis-server --port 6399 --save "" >/dev/null &
  redis=$!
  trap 'kill $redis; wait $redis' EXIT
  export REDIS_URL=redis://localhost:6399
  until redis-cli -u "$REDIS_URL" ping >/dev/null 2>&1; do sleep 0.1; done
fi
