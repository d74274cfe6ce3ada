package emit

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync/atomic"
)

// LogHandler returns a handler for package log/slog whose records go to the host, each with the id
// of its context's call, or of the only open call with a concurrency of 1. Outside of a host they
// are lines of text on stderr.
//
// Under a host, [Run] makes it the default of log/slog at level Info, unless the program has set a
// default of its own; package log then goes through it, too. For another level, set it yourself:
//
//	slog.SetDefault(slog.New(emit.LogHandler(slog.LevelDebug)))
func LogHandler(level slog.Leveler) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	return &logHandler{level: level, text: slog.NewTextHandler(os.Stderr, options)}
}

var hosted atomic.Pointer[session]

type logHandler struct {
	level  slog.Leveler
	text   slog.Handler // outside of a host
	fields map[string]any
	prefix string
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	s := hosted.Load()
	if s == nil {
		return h.text.Handle(ctx, r)
	}
	fields := make(map[string]any, len(h.fields)+r.NumAttrs())
	for name, value := range h.fields {
		fields[name] = value
	}
	r.Attrs(func(a slog.Attr) bool {
		addField(fields, h.prefix, a)
		return true
	})
	s.log(ctx, levelName(r.Level), r.Message, fields)
	return nil
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	own := *h
	own.text, own.fields = h.text.WithAttrs(attrs), map[string]any{}
	for name, value := range h.fields {
		own.fields[name] = value
	}
	for _, a := range attrs {
		addField(own.fields, h.prefix, a)
	}
	return &own
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	own := *h
	own.text, own.prefix = h.text.WithGroup(name), h.prefix+name+"."
	return &own
}

// addField keeps a value that every codec carries, and the text of any other: a log is for people.
func addField(fields map[string]any, prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	name := text(prefix + a.Key)
	switch value.Kind() {
	case slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range value.Group() {
			addField(fields, prefix, inner)
		}
		return
	case slog.KindBool, slog.KindInt64, slog.KindUint64:
		fields[name] = value.Any()
		return
	case slog.KindFloat64:
		if f := value.Float64(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			fields[name] = f
			return
		}
	}
	if !a.Equal(slog.Attr{}) {
		fields[name] = text(value.String())
	}
}

func levelName(level slog.Level) string {
	switch {
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warning"
	case level < slog.LevelError+4:
		return "error"
	}
	return "critical"
}

func (s *session) log(ctx context.Context, level, message string, fields map[string]any) {
	frame := logFrame{Op: "log", Level: level, Text: text(message), Fields: fields}
	if c := s.callOf(ctx); c != nil {
		frame.ID = &c.ID
	}
	if len(fields) > 100 {
		frame.Fields = map[string]any{"dropped": fmt.Sprintf("%d fields", len(fields))}
	}
	s.send(frame)
}

func (s *session) callOf(ctx context.Context) *Call {
	if c := FromContext(ctx); c.session != nil {
		return c
	}
	if s.concurrency == 1 {
		return s.workers[0].call.Load()
	}
	return nil
}

// logToHost makes the host's log the default of log/slog and log, unless the program has set one.
func logToHost(s *session) {
	hosted.Store(s)
	if fmt.Sprintf("%T", slog.Default().Handler()) == "*slog.defaultHandler" {
		slog.SetDefault(slog.New(LogHandler(slog.LevelInfo)))
	}
}
