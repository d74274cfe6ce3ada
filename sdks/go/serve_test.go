package emit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain makes a program with nodes of this test, when it is told to.
func TestMain(m *testing.M) {
	if os.Getenv("EMIT_TEST_PROGRAM") == "" {
		os.Exit(m.Run())
	}
	Node("count", countTo)
	Node("echo", Pure(func(m Message) any { return m["value"] }))
	Node("large", Pure(func(Message) string { return strings.Repeat("x", 500_000) })) // more than a pipe holds
	Node("noisy", Map(func(Message) (string, error) {
		fmt.Println("printed")
		child := exec.Command("sh", "-c", "echo by a child; cat")
		child.Stdin, child.Stdout = os.Stdin, os.Stdout
		rest, err := io.ReadAll(os.Stdin)
		return string(rest), errors.Join(err, child.Run())
	}))
	Node("fail", Map(func(Message) (int, error) { return 0, fmt.Errorf("outer: %w", os.ErrNotExist) }))
	Node("config", MapContext(func(ctx context.Context, _ Message) (Message, error) {
		if _, ok := os.LookupEnv("EMIT_CONFIG"); ok {
			return nil, errors.New("a program that the handler starts would get it")
		}
		return FromContext(ctx).Config, nil
	}))
	Node("leave", Pure(func(Message) int { os.Exit(0); return 0 }))
	Node("panic", MapContext(func(context.Context, Message) (int, error) { panic("oh") }))
	Run()
	if os.Getenv("EMIT_TEST_STUCK") != "" {
		time.Sleep(time.Minute) // a cleanup that is stuck; not for ever, or a test that fails would hang
	}
	fmt.Fprintln(os.Stderr, "cleaned up")
}

func byHand(t *testing.T, input string, environment ...string) (printed, said string, status int) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(append(os.Environ(), "EMIT_TEST_PROGRAM=1"), environment...)
	var out, errs bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &out, &errs
	err := command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), status
}

func TestByHand(t *testing.T) {
	for _, c := range []struct {
		input, environment string
		printed            string
		status             int
	}{
		{`{"n":2}`, "EMIT_NODE=count", "0\n1\n", 0},
		{"\n{\"n\":1}\n\n{\"n\":1}\n", "EMIT_NODE=count", "0\n0\n", 0},
		{"{\n  \"n\":\n 2\n}\n", "EMIT_NODE=count", "0\n1\n", 0},
		{"", "EMIT_NODE=count", "", 0},
		{"{\"n\":\"x\"}\n{\"n\":1}", "EMIT_NODE=count", "0\n", 1},
		{"{\"n\":1", "EMIT_NODE=count", "", 1},
		{"{}", "EMIT_NODE=nobody", "", 1},
		{"{}", "OTHER=", "", 1},
		{"{}", "EMIT_NODE=fail", "", 1},
		{"{}", "EMIT_NODE=noisy", "\"\"\n", 0},
		{"\x81\xa5value\x0a", "EMIT_NODE=echo", "\x0a\n", 0},
		{"\x81\xa5value\xc4\x01\xff", "EMIT_NODE=echo", "\xc4\x01\xff\n", 0},
	} {
		printed, said, status := byHand(t, c.input, c.environment)
		if printed != c.printed || status != c.status {
			t.Errorf("%q, %s: %q, %d, %s", c.input, c.environment, printed, status, said)
		}
	}
}

func TestMessageOfTheEnvironment(t *testing.T) {
	printed, said, status := byHand(t, "for a debugger", "EMIT_NODE=noisy", "EMIT_MSG={}")
	if printed != "\"for a debugger\"\n" || status != 0 || !strings.Contains(said, "printed\nby a child\n") {
		t.Error(printed, said, status)
	}
}

func TestProbe(t *testing.T) {
	printed, _, _ := byHand(t, `{"n":1}`, "EMIT_NODE=count", "EMIT_PROBE=1")
	lines := strings.Split(strings.TrimSpace(printed), "\n")
	var about Message
	if err := decode(jsonCodec{}, []byte(lines[0]), &about); err != nil || about["op"] != "ready" {
		t.Error(printed, err)
	}
	if rest := strings.Join(lines[1:], ","); rest != `0,{"op":"end","id":null}` {
		t.Error(printed)
	}
}

func TestProcessThatIsEndedWithoutAWord(t *testing.T) {
	printed, _, status := byHand(t, "{}", "EMIT_NODE=leave", "EMIT_PROBE=1")
	if status != 0 || strings.Count(printed, `"op"`) != 1 || !strings.Contains(printed, `"end","groups"]`) {
		t.Error(printed, status)
	}
}

func TestNamesByHand(t *testing.T) {
	for environment, says := range map[string]string{
		"EMIT_NODE=":      "set EMIT_NODE to one of the program's nodes: count, echo,",
		"EMIT_NODE=other": `there is no node "other" in this program; it has: count, echo,`,
	} {
		_, said, status := byHand(t, "{}", environment)
		if status != 1 || !strings.Contains(said, says) {
			t.Error(said, status)
		}
	}
}

func TestWhatAFailureSays(t *testing.T) {
	_, said, _ := byHand(t, "{}", "EMIT_NODE=fail")
	if !strings.HasPrefix(said, "error: outer: file does not exist\ncaused by error: file does not exist\n") {
		t.Error(said)
	}
	_, said, _ = byHand(t, "{}", "EMIT_NODE=panic")
	if !strings.HasPrefix(said, "panic: oh\n") || !strings.Contains(strings.Split(said, "\n")[1], "serve_test.go:") || strings.Count(said, "\n    ") != 1 {
		t.Error(said)
	}
}

// helloOf is the first line of a host that speaks a version.
func helloOf(version int) string {
	return fmt.Sprintf(`{"op":"hello","v":[%d],"codecs":["json"],"node":"count","max_frame":1000}`, version) + "\n"
}

func TestHostOfAnotherVersion(t *testing.T) {
	printed, _, status := byHand(t, helloOf(2))
	if status != 1 || !strings.HasPrefix(printed, "\n"+`{"op":"err","id":null,"type":"error","message":"this SDK speaks version 1`) {
		t.Error(printed, status)
	}
}

func TestHostThatMakesNoSense(t *testing.T) {
	printed, _, status := byHand(t, helloOf(1)+"{\n")
	if status != exitProtocol || !strings.Contains(printed, `"op":"err","id":null`) {
		t.Error(printed, status)
	}
}

func TestWholeConversation(t *testing.T) {
	lines := strings.Replace(helloOf(1), "\n", "\r\n", 1) +
		`{"op":"call","id":1,"msg":{"n":2}}` + "\n\n" + `{"op":"call","id":2,"node":"noisy","msg":{}}` + "\n" + `{"op":"bye"}` + "\n"
	printed, said, status := byHand(t, lines)
	if status != 0 || !strings.Contains(printed, `{"op":"end","id":1,"msgs":[0,1]}`) || !strings.Contains(printed, `{"op":"end","id":2,"msgs":[""]}`) {
		t.Error(printed, said, status)
	}
	if !strings.HasSuffix(said, "printed\nby a child\ncleaned up\n") || strings.Contains(printed, "printed") {
		t.Error(said)
	}
}

func TestCleanupThatIsStuckIsCutOff(t *testing.T) {
	t.Parallel() // it takes the whole grace
	_, said, status := byHand(t, helloOf(1)+`{"op":"bye"}`+"\n", "EMIT_TEST_STUCK=1")
	if status != 1 || strings.Contains(said, "cleaned up") {
		t.Error(said, status)
	}
}

func TestHostThatReadsNoMore(t *testing.T) {
	for end, status := range map[string]int{"": 1, "{\n": exitProtocol} {
		t.Run(end, func(t *testing.T) {
			t.Parallel() // it takes the whole grace
			command := exec.Command(os.Args[0])
			command.Env = append(os.Environ(), "EMIT_TEST_PROGRAM=1")
			in, err := command.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := command.StdoutPipe(); err != nil { // of which nobody reads
				t.Fatal(err)
			}
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			call := `{"op":"call","id":1,"node":"large","msg":{}}` + "\n"
			if _, err := io.WriteString(in, strings.Replace(helloOf(1), "1000}", "1000000}", 1)+call); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1500 * time.Millisecond) // until it has looked, in the midst of its write, for its host
			if _, err := io.WriteString(in, end); err != nil {
				t.Fatal(err)
			}
			in.Close()
			stuck := time.AfterFunc(30*time.Second, func() { command.Process.Kill() })
			defer stuck.Stop()
			if command.Wait(); command.ProcessState.ExitCode() != status {
				t.Error(command.ProcessState)
			}
		})
	}
}
