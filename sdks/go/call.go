package emit

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

// A Call is one message given to a handler. It is also the handler's context, and is done when the
// host cancels the call, at its deadline, and after the handler has returned.
type Call struct {
	ID          int64  // its number in this process; 0 outside of a host
	Node        string // the node that was called
	Origin      string // the node that emitted the message; empty if none did
	Attempt     int    // counted by the host, from 1
	Traceparent string // the W3C trace context of this run, or else the sender's; empty if there is none
	Tracestate  string // the second part of that context
	// The node's config at the host. From a shell and in a test: the map in JSON of the environment
	// variable EMIT_CONFIG.
	Config map[string]any

	allowed  time.Duration // from its turn on; below 0: no deadline
	deadline time.Time
	msg      []byte
	session  *session

	mu     sync.Mutex // guards the fields below
	done   chan struct{}
	err    error // of the context
	timer  *time.Timer
	parts  []byte    // encoded results that are in no frame yet
	count  int       // the number of them
	since  time.Time // when the first of them came
	failed error     // the first result that was refused
	closed bool      // it has been answered
}

type callKey struct{}

// FromContext returns the call that ctx belongs to. Outside of one, as in a test, it returns a call
// with nothing but its Config and its Attempt, 1; it panics if EMIT_CONFIG is not a map in JSON.
func FromContext(ctx context.Context) *Call {
	if c, ok := ctx.Value(callKey{}).(*Call); ok {
		return c
	}
	return outside()
}

func outside() *Call {
	config, err := givenConfig()
	if err != nil {
		panic(err)
	}
	return &Call{Attempt: 1, Config: config}
}

// givenConfig is the configuration of a run without a host. Its error does not quote it: it may hold
// secrets.
var givenConfig = sync.OnceValues(func() (map[string]any, error) {
	config, text := Message{}, os.Getenv("EMIT_CONFIG")
	if text == "" {
		return config, nil
	}
	if decode(jsonCodec{}, []byte(text), &config) != nil || config == nil {
		return nil, errors.New("EMIT_CONFIG is not a map in JSON")
	}
	return config, nil
})

// Deadline implements [context.Context].
func (c *Call) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// begin starts the call's time at its turn: calls are sent ahead, and wait.
func (c *Call) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.allowed >= 0 {
		c.deadline = time.Now().Add(c.allowed)
	}
}

// timedOut reports whether err is a timeout and the deadline has passed. It needs c.mu.
func (c *Call) timedOut(err error) bool {
	if c.deadline.IsZero() || time.Until(c.deadline) > early || c.err == context.Canceled {
		return false
	}
	return isTimeout(err)
}

// Done implements [context.Context]. Its channel and timer are made on first use, since they would
// cost more than many a handler.
func (c *Call) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		over := c.look() != nil
		if c.done = make(chan struct{}); over {
			close(c.done)
		} else if !c.deadline.IsZero() {
			expire := func() { c.stop(context.DeadlineExceeded) }
			c.timer = time.AfterFunc(time.Until(c.deadline), expire)
		}
	}
	return c.done
}

// Err implements [context.Context].
func (c *Call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look()
}

func (c *Call) look() error {
	if c.err == nil && c.timer == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.err = context.DeadlineExceeded
		if c.done != nil {
			close(c.done)
		}
	}
	return c.err
}

// Value implements [context.Context].
func (c *Call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return nil
}

// stop ends the context.
func (c *Call) stop(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(err)
}

func (c *Call) end(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
}

// emit takes a result of the handler.
func (c *Call) emit(value any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("the call has ended: its handler has returned")
	}
	err := c.add(value)
	if err != nil && c.failed == nil {
		c.failed = err
	}
	return err
}

func (c *Call) add(value any) error {
	s, start := c.session, len(c.parts)
	parts := c.parts
	if c.count > 0 {
		parts = s.codec.separate(parts)
	}
	first := len(parts)
	parts, err := encode(s.codec, parts, value)
	if err != nil {
		return err
	}
	if size := len(parts) - first; size > s.room {
		return &FrameTooLarge{Node: c.Node, Size: size, Max: s.maxFrame}
	}
	if c.count > 0 && len(parts) > min(enough, s.room) {
		s.put(results(s.codec, nil, "out", c.ID, parts[:start], c.count), true)
		parts, c.count = append(parts[:0], parts[first:]...), 0
	}
	if c.count == 0 {
		c.since = time.Now()
	}
	c.parts = parts
	c.count++
	s.arm(linger)
	return nil
}

// hurry sends the results that have waited long enough. The last results of a handler that is about
// to return go with its end.
func (c *Call) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 || c.closed {
		return
	}
	if waited := time.Since(c.since); waited < linger {
		c.session.arm(linger - waited)
		return
	}
	c.session.put(results(c.session.codec, nil, "out", c.ID, c.parts, c.count), false)
	c.parts, c.count = c.parts[:0], 0
}
