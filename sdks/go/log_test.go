package emit

import (
	"errors"
	"log"
	"log/slog"
	"reflect"
	"testing"
	"time"
)

func TestLogs(t *testing.T) {
	bothCodecs(t, func(t *testing.T, codec string) {
		before, flags, writer := slog.Default(), log.Flags(), log.Writer()
		k := converse(t, programOf(1, newNode("log", Each(func(Message, func(int) error) error {
			slog.Default().With("a", 1).WithGroup("g").Warn("stock \xff", "b", 2.5, "c", errors.New("x"), slog.Group("h", "d", time.Second))
			slog.Debug("not at this level")
			log.Print("by package log")
			return nil
		}))), codec)
		logToHost(k.session)
		defer func() {
			hosted.Store(nil)
			slog.SetDefault(before)
			log.SetFlags(flags)
			log.SetOutput(writer)
		}()
		k.send(Message{"op": "call", "id": 7, "msg": Message{}})
		fields := Message{"a": int64(1), "g.b": 2.5, "g.c": "x", "g.h.d": "1s"}
		wanted := Message{"op": "log", "level": "warning", "text": `stock \xff`, "id": int64(7), "fields": fields}
		if got := k.frame(); !reflect.DeepEqual(got, wanted) {
			t.Error(got)
		}
		wanted = Message{"op": "log", "level": "info", "text": "by package log", "id": int64(7)}
		if got := k.frame(); !reflect.DeepEqual(got, wanted) {
			t.Error(got)
		}
		if got := k.answer(); got["op"] != "end" {
			t.Error(got)
		}
	})
}
