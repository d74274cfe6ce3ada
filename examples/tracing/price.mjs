// A node that continues the trace of its message with OpenTelemetry's own SDK.
import { appendFileSync } from 'node:fs';
import { context, propagation, trace } from '@opentelemetry/api';
import { NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node';
import { node } from 'emit-graph-sdk';

// In place of an exporter to a collector: @opentelemetry/exporter-trace-otlp-proto.
const exporter = {
  export(spans, done) {
    for (const span of spans) {
      const { traceId, spanId } = span.spanContext();
      const parent = span.parentSpanContext?.spanId;
      appendFileSync(process.env.SPANS, `${JSON.stringify([span.name, traceId, spanId, parent])}\n`);
    }
    done({ code: 0 });
  },
  async shutdown() {},
};

const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
provider.register();
const tracer = trace.getTracer('price');

node('price', ({ word }, { traceparent, tracestate }) => {
  const run = propagation.extract(context.active(), { traceparent, tracestate });
  return context.with(run, () => tracer.startActiveSpan('look up', (span) => {
    span.end();
    return [word, word.length];
  }));
});
