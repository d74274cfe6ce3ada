package emit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxText   = 8192 // Bytes of an error's or a log line's text.
	maxStack  = 40   // Levels of a stack.
	maxCauses = 4    // Causes behind an error.
)

// A verdict says what to do after an attempt; it wraps the attempt's error.
type verdict struct {
	error
	retry bool
	after *float64 // seconds
}

func (v *verdict) Unwrap() error { return v.error }

// Retry marks err so that the host gives the same message again, after a while. An after of 0
// leaves the delay to the host. Wrapping the result in other errors keeps the mark.
//
// It panics for a negative after.
func Retry(err error, after time.Duration) error {
	if after < 0 {
		panic(fmt.Sprintf("emit.Retry: after must be 0 or more, not %v", after))
	}
	if err == nil {
		err = errors.New("try again")
	}
	v := &verdict{error: err, retry: true}
	if seconds := after.Seconds(); after > 0 {
		v.after = &seconds
	}
	return v
}

// Reject marks err so that the host does not try again: no attempt with this message can succeed.
func Reject(err error) error {
	if err == nil {
		err = errors.New("rejected")
	}
	return &verdict{error: err}
}

// FrameTooLarge reports a result, or a frame from the host, beyond max_frame. Nothing of it was
// written.
type FrameTooLarge struct {
	Node      string
	Size, Max int // bytes
}

func (e *FrameTooLarge) Error() string {
	other := "pass a path"
	if e.Max < largest {
		other = "raise max_frame of the node"
	}
	return fmt.Sprintf("%s emitted a result of %d bytes; a frame holds at most %d: emit less at once, "+
		"or %s", e.Node, e.Size, e.Max, other)
}

// A failure is an error in the form of the wire.
type failure struct {
	Type    string   `json:"type"`
	Message string   `json:"message"`
	Stack   []string `json:"stack,omitempty"`
	Retry   *bool    `json:"retry,omitempty"`
	After   *float64 `json:"after,omitempty"`
	Cause   *failure `json:"cause,omitempty"`
	Timeout bool     `json:"timeout,omitempty"`
}

func describe(err error) *failure {
	about := describeCauses(err, maxCauses)
	if v := verdictOf(err); v != nil {
		about.Retry, about.After = &v.retry, v.after
	}
	return about
}

// isTimeout reports whether err, or one that it wraps, is a timeout: of a context, connection or
// file.
func isTimeout(err error) bool {
	defer func() { _ = recover() }() // an author's own Is, As or Unwrap may panic
	var timeout interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	return errors.As(err, &timeout) && timeout.Timeout()
}

// verdictOf returns nil if an author's own As or Unwrap method panics, as a nil pointer's does.
func verdictOf(err error) (v *verdict) {
	defer func() { _ = recover() }()
	errors.As(err, &v)
	return v
}

func describeCauses(err error, causes int) *failure {
	about := &failure{Type: typeName(err)}
	if v, ok := err.(*verdict); ok {
		err = v.error // only its name matters, not a cause of the same text
	}
	about.Message = text(message(err))
	if p, ok := err.(*panicked); ok {
		about.Stack = p.stack
	}
	if cause := unwrap(err); cause != nil && causes > 0 {
		about.Cause = describeCauses(cause, causes-1)
	}
	return about
}

// unwrap returns nil if an author's own Unwrap method panics; message then reports the panic.
func unwrap(err error) (cause error) {
	defer func() { _ = recover() }()
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, cause := range several.Unwrap() {
			return cause
		}
	}
	return errors.Unwrap(err)
}

// message calls an author's own Error method, which may fail as well.
func message(err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("(no text: the Error method of %T panicked)", err)
		}
	}()
	return err.Error()
}

func typeName(err error) string {
	if v, ok := err.(*verdict); ok {
		return map[bool]string{true: "Retry", false: "Reject"}[v.retry]
	}
	switch name := strings.TrimLeft(fmt.Sprintf("%T", err), "*"); name {
	case "errors.errorString", "errors.joinError", "fmt.wrapError", "fmt.wrapErrors":
		return "error"
	case "emit.malformed", "emit.misfit":
		return "DecodeError"
	case "emit.panicked":
		return "panic"
	default:
		return strings.TrimPrefix(name, "emit.")
	}
}

func text(s string) string {
	if len(s) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = fmt.Sprintf("%s... (%d bytes)", s[:cut], len(s))
	}
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			b.WriteRune(r)
		}
		s = s[size:]
	}
	return b.String()
}

// panicked is a handler's panic, as an error.
type panicked struct {
	value any
	stack []string
}

func (p *panicked) Error() string { return fmt.Sprint(p.value) }

func (p *panicked) Unwrap() error {
	err, _ := p.value.(error)
	if _, ok := err.(runtime.Error); ok {
		return nil // its text is all that is known
	}
	return err
}

// stack returns the lines of the goroutine that panics: innermost first, but the author's before
// those of libraries, and none of the SDK's or of the runtime.
func stack(skip int) []string {
	counters := make([]uintptr, 100)
	frames := runtime.CallersFrames(counters[:runtime.Callers(skip+1, counters)])
	var all []runtime.Frame
	root := "" // the folder of the standard library
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		if file, ok := strings.CutSuffix(f.File, "runtime/panic.go"); ok {
			root = file
		}
		if strings.HasSuffix(f.Function, ".(*session).run") || strings.HasSuffix(f.Function, ".(*program).hand") {
			break
		}
		if !strings.HasPrefix(f.Function, "runtime.") && !isOurs(f.File) {
			all = append(all, f)
		}
	}
	library := func(f runtime.Frame) bool {
		return strings.Contains(f.File, "/pkg/mod/") || (root != "" && strings.HasPrefix(f.File, root))
	}
	sort.SliceStable(all, func(i, j int) bool { return !library(all[i]) && library(all[j]) })
	lines := []string{}
	for _, f := range all[:min(len(all), maxStack)] {
		lines = append(lines, text(fmt.Sprintf("%s:%d in %s", f.File, f.Line, f.Function)))
	}
	return lines
}

// isOurs goes by the file: generic functions have the names of their callers.
func isOurs(file string) bool {
	return strings.HasPrefix(file, ourFolder) && !strings.Contains(file[len(ourFolder):], "/") &&
		!strings.HasSuffix(file, "_test.go")
}

var ourFolder = func() string {
	_, file, _, _ := runtime.Caller(0)
	return strings.TrimSuffix(file, "errors.go")
}()
