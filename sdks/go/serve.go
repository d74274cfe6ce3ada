package emit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/emit-graph/emit/sdks/go/internal/wire"
)

const exitProtocol = 76 // EX_PROTOCOL of sysexits.h

var parent = os.Getppid()

// Run serves the nodes that [Node] has registered until the input ends.
//
// Under a host it speaks frames, and returns when the host needs this program no more. The caller
// may then clean up, within the rest of the 5 s that the whole end may take. By hand,
//
//	echo '{"count": 3}' | ./count
//
// it prints one line of JSON per result. EMIT_MSG='{"count": 3}' ./count leaves the terminal to a
// debugger. By hand, EMIT_NODE chooses among several nodes. After a failure it exits with status 1.
//
// Call it first in main, or nearly first: from then on a print goes to stderr, and no child process
// can touch the wire. If a host starts the program for one message only, earlier prints, during the
// initialization of packages, are taken for results. Run makes one exception: a terminal stays.
func Run() {
	in, out := wire.Take()
	if status := serve(registered, &input{file: in}, out); status != 0 {
		os.Exit(status)
	}
}

func serve(p *program, in *input, out *os.File) (status int) {
	if len(p.nodes) == 0 {
		p.fail(errors.New("no node is registered: call emit.Node before emit.Run"))
	}
	var first []byte
	given, byHand := os.LookupEnv("EMIT_MSG")
	if byHand {
		first, in.end = []byte(strings.TrimSpace(given)), true
	} else {
		first = in.line()
	}
	var h *hello
	if !byHand && os.Getenv("EMIT_PROBE") != "1" { // by hand, a message may look like one: it may have a field "op"
		h = readHello(first)
	}
	if h == nil {
		return plain(p, first, in, out)
	}
	if !speaks(h.V) {
		p.fail(fmt.Errorf("this SDK speaks version 1, not any of %v", h.V))
	}
	s := newSession(p, h, out)
	if p.failure != nil {
		s.send(errFrame{"err", nil, *describe(p.failure)})
		return 1
	}
	return s.host(in)
}

func speaks(versions []int64) bool {
	for _, v := range versions {
		if v == 1 {
			return true
		}
	}
	return false
}

// host serves a host until the input ends, the process is told to stop, or the host is gone.
func (s *session) host(in *input) (status int) {
	interrupts, terms := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt) // Ctrl-C reaches the whole terminal; the host decides
	signal.Notify(terms, syscall.SIGTERM)
	if err := s.greet(); err != nil {
		s.send(errFrame{"err", nil, *describe(err)})
		return exitProtocol
	}
	logToHost(s)
	broken := make(chan error, 1)
	go func() { broken <- s.read(in) }()
	// A handler, or the author's cleanup, may be busy; or the host may have stopped reading.
	exitSoon := func(status int) { time.AfterFunc(grace, func() { os.Exit(status) }) }
	leave := sync.OnceFunc(func() {
		exitSoon(1)
		s.end()
	})
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-broken:
			if err != nil {
				exitSoon(exitProtocol)
				s.send(errFrame{"err", nil, *describe(err)})
				return exitProtocol
			}
			leave()
		case <-terms:
			leave()
		case <-tick.C:
			if s.isAlone() {
				leave()
			}
		case <-s.over:
			return 0
		}
	}
}

// isAlone reports whether the host is gone. It does not look for 1: in a container the host may be
// 1. It does not wait for a write either, which may never end.
func (s *session) isAlone() bool { return s.gone.Load() || os.Getppid() != parent }

// plain runs without a host: messages in, one line per result out.
func plain(p *program, first []byte, in *input, out *os.File) (status int) {
	if p.failure != nil {
		fmt.Fprintln(os.Stderr, p.failure)
		return 1
	}
	if _, err := givenConfig(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	probed := os.Getenv("EMIT_PROBE") == "1"
	os.Unsetenv("EMIT_PROBE") // hidden, as the next one, from programs that a handler starts
	os.Unsetenv("EMIT_CONFIG")
	if probed {
		body, _ := encode(jsonCodec{}, nil, p.ready())
		printOut(out, jsonCodec{}.frame(nil, body))
	}
	var c codec = jsonCodec{}
	messages := func() []byte { return in.line() }
	if len(first) > 0 && first[0] >= 0x80 { // the first byte of a msgpack map, never of JSON
		c, first = msgpackCodec{}, append(bytes.Clone(first), in.all()...)
		messages = func() []byte { return nil }
	} else if !json.Valid(first) { // one document over several lines
		first = append(bytes.Clone(first), in.all()...)
		messages = func() []byte { return nil }
	}
	for msg := first; len(msg) > 0; msg = messages() {
		if err := p.once(c, msg, out); err != nil {
			complain(err)
			status = 1
		}
	}
	if probed && status == 0 { // tells the host that no handler ended the process
		line, _ := encode(c, nil, endFrame{Op: "end"})
		printOut(out, append(line, '\n'))
	}
	return status
}

// once gives the node one message.
func (p *program) once(c codec, msg []byte, out *os.File) error {
	name := os.Getenv("EMIT_NODE")
	if len(p.nodes) > 1 && name == "" {
		return fmt.Errorf("set EMIT_NODE to one of the program's nodes: %s", strings.Join(p.names(), ", "))
	}
	n, err := p.serving(name)
	if err != nil {
		return err
	}
	return p.hand(n, c, msg, out)
}

func (p *program) hand(n *node, c codec, msg []byte, out *os.File) (err error) {
	var mu sync.Mutex // a handler may emit from goroutines of its own, as under a host
	var refused error
	defer func() {
		if value := recover(); value != nil {
			err = &panicked{value, stack(2)}
		} else if err == nil {
			err = refused
		}
	}()
	call := outside()
	call.Node = n.name
	return n.handle(c, msg, call, func(result any) error {
		mu.Lock()
		defer mu.Unlock()
		line, err := encode(c, nil, result)
		if err != nil {
			refused = err
			return err
		}
		printOut(out, append(line, '\n'))
		return nil
	})
}

func printOut(out *os.File, data []byte) {
	if _, err := out.Write(data); errors.Is(err, syscall.EPIPE) {
		os.Exit(0) // as with `| head -1`: the reader has enough
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func complain(err error) {
	about := describe(err)
	fmt.Fprintf(os.Stderr, "%s: %s\n", about.Type, about.Message)
	for _, line := range about.Stack {
		fmt.Fprintf(os.Stderr, "    %s\n", line)
	}
	for cause := about.Cause; cause != nil; cause = cause.Cause {
		fmt.Fprintf(os.Stderr, "caused by %s: %s\n", cause.Type, cause.Message)
	}
}
