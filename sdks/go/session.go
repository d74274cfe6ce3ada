package emit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A session is the calls of one process under a host.
//
// One goroutine reads. Up to concurrency workers, each with a goroutine of its own, take the oldest
// waiting call, until none waits. So with a concurrency of 1 calls are worked on in order.
type session struct {
	*program
	hello    *hello
	codec    codec
	sink     *os.File
	maxFrame int
	room     int // for results, beside the frame's other fields
	over     chan struct{}

	workers []*worker

	mu      sync.Mutex // guards the fields below
	fewer   *sync.Cond // signals that fewer calls wait than before
	open    map[int64]*Call
	waiting []*Call
	idle    []*worker
	ended   bool

	out      sync.Mutex // guards the fields below; a whole write happens under it
	unsent   []byte
	gathered []byte // the lists of results of calls that follow one another, in no frame yet
	first    int64  // the first of these calls
	count    int    // how many they are
	groups   bool   // the host has sent a group: it can take several answers in a frame

	gone  atomic.Bool // nobody reads any more
	armed atomic.Bool // the timer is due
	timer *time.Timer
}

// A worker is busy with a call, or idle.
type worker struct{ call atomic.Pointer[Call] }

func newSession(p *program, h *hello, sink *os.File) *session {
	s := &session{program: p, hello: h, codec: jsonCodec{}, sink: sink, maxFrame: h.MaxFrame}
	s.room = s.maxFrame - 64
	s.over, s.open, s.fewer = make(chan struct{}), map[int64]*Call{}, sync.NewCond(&s.mu)
	for range p.concurrency {
		s.workers = append(s.workers, &worker{})
	}
	s.idle = slices.Clone(s.workers)
	s.timer = time.AfterFunc(time.Hour, s.late)
	s.timer.Stop()
	return s
}

// greet answers hello, and chooses a codec. It fails if the answer does not fit into a frame.
func (s *session) greet() error {
	var chosen codec = jsonCodec{} // every host speaks it
	packed := slices.Index(s.hello.Codecs, "msgpack")
	if plain := slices.Index(s.hello.Codecs, "json"); packed >= 0 && (plain < 0 || packed < plain) {
		chosen = msgpackCodec{}
	}
	about := s.ready()
	about.Codec = chosen.name()
	body, _ := encode(s.codec, nil, about)
	if len(body) > s.maxFrame {
		about.Inputs, about.Outputs = nil, nil // they are for people, and grow with the program
		body, _ = encode(s.codec, nil, about)
	}
	if len(body) > s.maxFrame {
		return fmt.Errorf("the ready frame of this program takes %d bytes, and a frame holds at most %d: "+
			"raise max_frame of the node", len(body), s.maxFrame)
	}
	s.send(about)
	s.codec = chosen
	return nil
}

// read works until the input ends or makes no sense.
func (s *session) read(in *input) error {
	for {
		calls, err := s.receive(in)
		s.accept(calls)
		if err != nil {
			return err
		}
		if in.end {
			return nil
		}
		in.fill()
	}
}

// receive takes the complete frames.
func (s *session) receive(in *input) (calls []*Call, err error) {
	for {
		body, rest, whole := s.codec.split(in.data)
		if in.data = rest; !whole {
			if len(rest) > s.maxFrame+4 {
				err = fmt.Errorf("a frame from the host is beyond the %d bytes of max_frame", s.maxFrame)
			}
			return calls, err
		}
		f, err := readFrame(s.codec, body)
		if err != nil && f.op == "call" && f.hasID {
			s.send(errFrame{"err", &f.id, *describe(err)})
			continue
		}
		if err != nil {
			return calls, err
		}
		switch f.op { // an unknown frame comes from a newer host
		case "call":
			calls = append(calls, s.newCall(f))
		case "calls":
			group, err := s.newCalls(f)
			if err != nil {
				return calls, err
			}
			calls = append(calls, group...)
		case "cancel":
			s.accept(calls)
			calls = nil
			s.cancel(f.id)
		case "ping":
			s.send(pongFrame{"pong", f.n})
		case "bye":
			in.end = true
			return calls, nil
		}
	}
}

func (s *session) newCall(f frame) *Call {
	c := &Call{Node: s.nameOf(f.node)}
	s.fill(c, f.id, f.msg, f.meta)
	return c
}

// newCalls makes the calls of a group at once.
func (s *session) newCalls(f frame) ([]*Call, error) {
	s.out.Lock()
	s.groups = true
	s.out.Unlock()
	made, calls, name := make([]Call, len(f.msgs)), make([]*Call, len(f.msgs)), s.nameOf(f.node)
	for i, msg := range f.msgs {
		m, err := f.own(s.codec, i)
		if err != nil {
			return nil, fmt.Errorf("a frame from the host is broken: %w", err)
		}
		calls[i] = &made[i]
		calls[i].Node = name
		s.fill(calls[i], f.id+int64(i), msg, m)
	}
	return calls, nil
}

func (s *session) fill(c *Call, id int64, msg []byte, m meta) {
	c.ID, c.Origin, c.Attempt = id, m.origin, int(m.attempt)
	c.Traceparent, c.Tracestate = m.traceparent, m.tracestate
	c.Config, c.msg, c.session = s.hello.Config, msg, s
	c.allowed = time.Duration(m.deadline) * time.Millisecond
}

// nameOf returns the name of the node to run, which is the program's own if it has only one.
func (s *session) nameOf(name string) string {
	if name == "" {
		name = s.hello.Node
	}
	if n, _ := s.serving(name); n != nil {
		return n.name
	}
	return name
}

func (s *session) accept(calls []*Call) {
	if len(calls) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	for _, c := range calls {
		s.open[c.ID] = c
	}
	s.waiting = append(s.waiting, calls...)
	for len(s.idle) > 0 && len(s.waiting) > 0 {
		w := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		go s.work(w, s.pop())
	}
	for len(s.waiting) > ahead && !s.ended {
		s.fewer.Wait()
	}
}

// pop needs s.mu.
func (s *session) pop() (c *Call) {
	if len(s.waiting) > 0 {
		c, s.waiting[0] = s.waiting[0], nil
		s.waiting = s.waiting[1:]
		if len(s.waiting) == ahead {
			s.fewer.Signal()
		}
	}
	return c
}

func (s *session) cancel(id int64) {
	s.mu.Lock()
	c := s.open[id]
	s.mu.Unlock()
	if c != nil {
		c.stop(context.Canceled)
	}
}

func (s *session) work(w *worker, c *Call) {
	defer func() {
		if c != nil { // a handler has ended this goroutine, by runtime.Goexit
			go s.work(w, s.after(w, c, errors.New("the handler has ended its goroutine")))
		}
	}()
	for buffer := []byte(nil); c != nil; {
		c.parts = buffer
		w.call.Store(c)
		answered := c
		c = s.after(w, c, s.run(c))
		if buffer = answered.parts[:0]; cap(buffer) > 4*enough {
			buffer = nil
		}
	}
}

// run calls the handler. Its panic is an error like any other.
func (s *session) run(c *Call) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p, stack(2)}
		}
	}()
	node, err := s.serving(c.Node)
	if err != nil {
		return err
	}
	if c.begin(); c.Err() == context.Canceled {
		return cancelled{}
	}
	return node.handle(s.codec, c.msg, c, c.emit)
}

// cancelled: the host has cancelled a call before it began.
type cancelled struct{}

func (cancelled) Error() string { return "cancelled by the host before it began" }

// after answers a call, and returns the next one; nil if none waits.
func (s *session) after(w *worker, c *Call, err error) *Call {
	c.mu.Lock()
	c.closed = true
	late := c.timedOut(err)
	c.end(context.Canceled)
	if err == nil {
		err = c.failed
	}
	c.mu.Unlock()
	s.mu.Lock()
	delete(s.open, c.ID)
	next := s.pop()
	s.mu.Unlock()
	s.answer(c, err, late, next == nil)
	if next == nil {
		next = s.rest(w)
	}
	return next
}

// rest returns a call that came meanwhile, or leaves the worker idle.
func (s *session) rest(w *worker) *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.pop()
	if next == nil {
		w.call.Store(nil)
		s.idle = append(s.idle, w)
		s.finish()
	}
	return next
}

func (s *session) answer(c *Call, err error, late, last bool) {
	if err != nil {
		about := *describe(err)
		about.Timeout = late && about.Retry == nil
		if n := s.find(c.Node); n != nil && len(about.Stack) == 0 {
			about.Stack = []string{n.place} // all that is known: an error of Go has no stack
		}
		s.put(s.encoded(errFrame{"err", &c.ID, about}), last)
		return
	}
	s.out.Lock()
	defer s.out.Unlock()
	s.gather(c)
	s.settle(last)
}

// gather puts the results that end a call beside those of the call before it, if one frame can have
// both. It needs s.out.
func (s *session) gather(c *Call) {
	most := min(enough, s.room)
	alone := !s.groups || len(c.parts) > min(small, s.room)
	if alone || c.ID != s.first+int64(s.count) || len(s.gathered)+len(c.parts)+8 > most {
		s.putEnds()
	}
	if alone {
		s.unsent = results(s.codec, s.unsent, "end", c.ID, c.parts, c.count)
		return
	}
	if s.count == 0 {
		s.first = c.ID
	} else {
		s.gathered = s.codec.separate(s.gathered)
	}
	s.gathered = s.codec.list(s.gathered, c.parts, c.count)
	s.count++
}

// putEnds needs s.out.
func (s *session) putEnds() {
	start := len(s.unsent)
	switch {
	case s.count == 1:
		s.unsent = append(s.codec.head(s.unsent, "end", s.first), s.gathered...)
		s.unsent = s.codec.tail(s.unsent, start)
	case s.count > 1:
		s.unsent = results(s.codec, s.unsent, "ends", s.first, s.gathered, s.count)
	}
	s.gathered, s.count = s.gathered[:0], 0
}

// put takes a frame; with now, the frame does not wait for others.
func (s *session) put(frame []byte, now bool) {
	s.out.Lock()
	defer s.out.Unlock()
	s.putEnds()
	s.unsent = append(s.unsent, frame...)
	s.settle(now)
}

func (s *session) settle(now bool) {
	if now || len(s.unsent)+len(s.gathered) > enough {
		s.write()
	} else {
		s.arm(linger)
	}
}

// send writes a frame at once, after everything that waits.
func (s *session) send(frame any) { s.put(s.encoded(frame), true) }

func (s *session) encoded(frame any) []byte {
	body, _ := encode(s.codec, nil, frame) // all its texts are valid, and its numbers finite
	if f, ok := frame.(shortenable); ok && len(body) > s.maxFrame {
		most := max(0, s.maxFrame-200) / 6 // a character takes up to 6 bytes of JSON
		body, _ = encode(s.codec, nil, f.shortened(most))
	}
	return s.codec.frame(nil, body)
}

// write writes every byte, and blocks until then. It needs s.out.
func (s *session) write() {
	s.putEnds()
	if len(s.unsent) > 0 && !s.gone.Load() {
		if _, err := s.sink.Write(s.unsent); err != nil {
			s.gone.Store(true) // not an error of the program: the host has left
		}
	}
	if s.unsent = s.unsent[:0]; cap(s.unsent) > 16*enough {
		s.unsent = nil
	}
}

// arm sets the timer for the waiting results, within the rest of their linger time.
func (s *session) arm(left time.Duration) {
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		s.timer.Reset(left)
	}
}

// late writes what waits, so that no result waits for a slow handler: the next one's or its own.
func (s *session) late() {
	s.armed.Store(false)
	for _, w := range s.workers {
		if c := w.call.Load(); c != nil {
			c.hurry()
		}
	}
	s.put(nil, true)
}

// end stops accepting calls; accepted ones are finished.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		s.fewer.Signal()
		s.finish()
	}
}

// finish needs s.mu.
func (s *session) finish() {
	if s.ended && len(s.idle) == len(s.workers) {
		close(s.over)
	}
}
