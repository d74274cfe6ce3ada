package emit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"time"
)

var codecs = []codec{jsonCodec{}, msgpackCodec{}}

// The bytes of both formats, written out: a codec that only agrees with itself proves nothing.
var vectors = []struct {
	value        any
	json, packed string // hexadecimal; empty: refused
}{
	{nil, "null", "c0"},
	{true, "true", "c3"},
	{false, "false", "c2"},
	{int64(0), "0", "00"},
	{int64(127), "127", "7f"},
	{int64(128), "128", "cc80"},
	{int64(256), "256", "cd0100"},
	{int64(65536), "65536", "ce00010000"},
	{int64(1 << 32), "4294967296", "cf0000000100000000"},
	{int64(-1), "-1", "ff"},
	{int64(-32), "-32", "e0"},
	{int64(-33), "-33", "d0df"},
	{int64(-129), "-129", "d1ff7f"},
	{int64(-32769), "-32769", "d2ffff7fff"},
	{int64(math.MinInt64), "-9223372036854775808", "d38000000000000000"},
	{int64(1<<53 + 1), "9007199254740993", "cf0020000000000001"},
	{uint64(math.MaxUint64), "18446744073709551615", "cfffffffffffffffff"},
	{3.0, "3.0", "cb4008000000000000"},
	{0.1, "0.1", "cb3fb999999999999a"},
	{math.Copysign(0, -1), "-0.0", "cb8000000000000000"},
	{1e21, "1e+21", "cb444b1ae4d6e2ef50"},
	{5e-324, "5e-324", "cb0000000000000001"},
	{"", `""`, "a0"},
	{"a\"\\\n\x00\u2028é<", `"a\"\\\n\u0000` + "\u2028é<\"", "ab61225c0a00e280a8c3a93c"},
	{strings.Repeat("x", 32), `"` + strings.Repeat("x", 32) + `"`, "d920" + strings.Repeat("78", 32)},
	{[]byte{0, 255}, "", "c40200ff"},
	{time.Unix(1, 0).UTC(), "", "d6ff00000001"},
	{time.Unix(1, 5).UTC(), "", "d7ff0000001400000001"},
	{time.Unix(-1, 5).UTC(), "", "c70cff00000005ffffffffffffffff"},
	{math.Inf(-1), "", "cbfff0000000000000"},
	{[]any{}, "[]", "90"},
	{[]any{int64(1), []any{nil}}, "[1,[null]]", "920191c0"},
	{map[string]any{}, "{}", "80"},
	{map[string]any{"a": int64(1)}, `{"a":1}`, "81a16101"},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		packed, _ := hex.DecodeString(v.packed)
		for c, wanted := range map[codec]string{jsonCodec{}: v.json, msgpackCodec{}: string(packed)} {
			data, err := encode(c, nil, v.value)
			if (err != nil) != (wanted == "") || (err == nil && string(data) != wanted) {
				t.Errorf("%s: %v became %q, %v", c.name(), v.value, data, err)
			}
			var back any
			if err := decode(c, []byte(wanted), &back); wanted != "" && (err != nil || !reflect.DeepEqual(back, v.value)) {
				t.Errorf("%s: %v came back as %v, %v", c.name(), v.value, back, err)
			}
		}
	}
}

func TestOtherFormsOfMsgpack(t *testing.T) {
	for packed, wanted := range map[string]any{
		"ca3fc00000": 1.5, "d97f" + strings.Repeat("61", 127): strings.Repeat("a", 127),
		"da000161": "a", "db0000000161": "a", "c5000161": []byte("a"), "c60000000161": []byte("a"),
		"dc000101": []any{int64(1)}, "dd0000000101": []any{int64(1)},
		"de0001a16101": map[string]any{"a": int64(1)}, "df00000001a16101": map[string]any{"a": int64(1)},
		"d1fffe": int64(-2), "82a16101a16102": map[string]any{"a": int64(2)},
	} {
		data, _ := hex.DecodeString(packed)
		var back any
		if err := decode(msgpackCodec{}, data, &back); err != nil || !reflect.DeepEqual(back, wanted) {
			t.Errorf("%s came as %v, %v", packed, back, err)
		}
	}
}

func TestMalformedMsgpack(t *testing.T) {
	for _, packed := range []string{
		"", "c1", "cd01", "a2ff", "a1ff", "dd", "92", "9201", "81a1", "81a161", "810101", "81c4016101", "ddffffffff",
		"dbffffffff61", "c6ffffffff61", "d4ff00", "d40100", "c7", "c705ff0000000001", "d7ffffffffff00000000", "0101",
	} {
		data, _ := hex.DecodeString(packed)
		var back any
		if err := decode(msgpackCodec{}, data, &back); err == nil {
			t.Errorf("%s came as %v", packed, back)
		}
	}
}

func TestStrictJSON(t *testing.T) {
	for _, text := range []string{
		"", " ", "nul", "tru", "01", "-", "1.", ".5", "1e", "+1", "NaN", "Infinity", "[1,]", "[1 2]", "[", "{", `{"a"}`,
		`{"a":1,}`, `{a:1}`, `{"a":1`, `"a`, "\"\n\"", `"\x"`, `"\u12"`, `"\ud800"`, `"\ud800\u0041"`, `"\udc00"`, "\"\xff\"",
		"\"\\n\xff\"", "1 2", "18446744073709551616", "-9223372036854775809", "1e999", `"\`, `"\u00g0"`, "[1}", `{"a":1]`,
	} {
		var back any
		if err := decode(jsonCodec{}, []byte(text), &back); err == nil {
			t.Errorf("%q came as %#v", text, back)
		}
	}
	var back any
	text := " [ 1 , -0 , 2.5E+1 , \"\\ud83d\\ude00\\/\\b\\f\\r\\t\\u00e9\" , { \"a\\n\" : { } , \"a\\n\" : 2 } ]\r\n"
	wanted := []any{int64(1), int64(0), 25.0, "😀/\b\f\r\té", map[string]any{"a\n": int64(2)}}
	if err := decode(jsonCodec{}, []byte(text), &back); err != nil || !reflect.DeepEqual(back, wanted) {
		t.Errorf("%v, %v", back, err)
	}
}

func TestLimits(t *testing.T) {
	for _, c := range codecs {
		nested := func(levels int) (value any) {
			for value = []any{}; levels > 1; levels-- {
				value = []any{value}
			}
			return value
		}
		data, err := encode(c, nil, nested(128))
		if err != nil || decode(c, data, new(any)) != nil {
			t.Errorf("%s: 128 levels are fine: %v", c.name(), err)
		}
		if _, err := encode(c, nil, nested(129)); err == nil || !strings.Contains(err.Error(), "128 levels") {
			t.Errorf("%s: 129 levels: %v", c.name(), err)
		}
		if _, err := encode(c, nil, make([]int, maxMembers)); err == nil || !strings.Contains(err.Error(), "members") {
			t.Errorf("%s: a million members: %v", c.name(), err)
		}
	}
	deep := strings.Repeat("[", 129) + strings.Repeat("]", 129)
	if err := decode(jsonCodec{}, []byte(deep), new(any)); err == nil {
		t.Error("129 levels came in")
	}
	wide := "[" + strings.Repeat("0,", maxMembers) + "0]"
	if err := decode(jsonCodec{}, []byte(wide), new(any)); err == nil {
		t.Error("1,000,001 members came in")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range codecs {
		for wanted, value := range map[string]any{
			"result.items[1].price is a chan int, which no codec carries":                                           map[string]any{"items": []any{0, map[string]any{"price": make(chan int)}}},
			"result[0] is an integer beyond 64 bits; emit it as text":                                               []*big.Int{new(big.Int).Lsh(big.NewInt(1), 64)},
			"result.b-c[a key of 6 bytes] is no valid text: it holds bytes that are no UTF-8":                       map[string]map[string]string{"b-c": {"4111-1": "\xff"}},
			"result.a is no valid text: it holds bytes that are no UTF-8":                                           map[string]string{"a": "\xff"},
			`result has a key of 1 bytes which is no valid text: it holds bytes that are no UTF-8`:                  map[string]int{"\xff": 1},
			"result has keys of type int; a key must be text":                                                       map[int]int{1: 1},
			"result is a errors.errorString, which no codec carries":                                                errors.New("x"),
			"result is a json.Number that marshals to no value: it is no JSON: 'x' at byte 0, where a value is due": json.Number("x"),
		} {
			data, err := encode(c, nil, value)
			if err == nil || err.Error() != wanted {
				t.Errorf("%s: %s, %v", c.name(), data, err)
			}
		}
	}
	for _, value := range []any{math.NaN(), float32(math.Inf(1)), []byte{1}, [2]byte{}, time.Now(), &time.Time{}, []time.Time{{}}} {
		if data, err := encode(jsonCodec{}, nil, value); err == nil || !strings.Contains(err.Error(), "msgpack can") {
			t.Errorf("%v became %s, %v", value, data, err)
		}
		if _, err := encode(msgpackCodec{}, nil, value); err != nil {
			t.Errorf("%v: %v", value, err)
		}
	}
}

// random makes a value of at most so many levels, as decoding would.
func random(r *rand.Rand, levels int) any {
	switch n := r.Intn(9); {
	case n == 0:
		return nil
	case n == 1:
		return r.Intn(2) == 0
	case n == 2:
		return int64(r.Uint64()) >> r.Intn(64)
	case n == 3:
		return r.Uint64() | 1<<63
	case n == 4:
		if f := math.Float64frombits(r.Uint64()); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
		return r.NormFloat64()
	case n < 7 || levels == 0:
		return randomText(r)
	case n == 7:
		list := make([]any, r.Intn(20))
		for i := range list {
			list[i] = random(r, levels-1)
		}
		return list
	}
	m := map[string]any{}
	for range r.Intn(20) {
		m[randomText(r)] = random(r, levels-1)
	}
	return m
}

func randomText(r *rand.Rand) string {
	runes := make([]rune, r.Intn(40))
	for i := range runes {
		runes[i] = []rune{rune(r.Intn(128)), rune(r.Intn(0xd800)), 0x1f600 + rune(r.Intn(50))}[r.Intn(3)]
	}
	return string(runes)
}

func TestRoundTrips(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 3000 {
		value := random(r, 3)
		for _, c := range codecs {
			data, err := encode(c, []byte{}, value)
			var back any
			if err == nil {
				err = decode(c, data, &back)
			}
			if err != nil || !reflect.DeepEqual(value, back) {
				t.Fatalf("%s: %#v came back as %#v, %v", c.name(), value, back, err)
			}
			if c.name() == "json" && !json.Valid(data) {
				t.Fatalf("%q is no JSON", data)
			}
		}
	}
}

// FuzzJSON holds our reader against encoding/json: it takes nothing that that one does not, and
// refuses no more than it says. Run it with go test -fuzz FuzzJSON.
func FuzzJSON(f *testing.F) {
	for _, v := range vectors {
		f.Add([]byte(v.json))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var ours, theirs any
		err := decode(jsonCodec{}, data, &ours)
		if json.Valid(data) == (err == nil) {
			return
		}
		if err == nil {
			t.Fatalf("%q came as %v", data, ours)
		}
		_ = json.Unmarshal(data, &theirs)
		for _, reason := range []string{"beyond 64 bits", "too large", "surrogate", "UTF-8", "levels", "members"} {
			if strings.Contains(err.Error(), reason) {
				return
			}
		}
		t.Fatalf("%q is %v, and not: %v", data, theirs, err)
	})
}

// FuzzMsgpack: whatever comes, nothing panics, and what is taken can be given back.
func FuzzMsgpack(f *testing.F) {
	for _, v := range vectors {
		packed, _ := hex.DecodeString(v.packed)
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var value, back any
		if decode(msgpackCodec{}, data, &value) != nil {
			return
		}
		again, err := encode(msgpackCodec{}, nil, value)
		if err != nil || decode(msgpackCodec{}, again, &back) != nil {
			t.Fatalf("%x came as %v and does not go out: %v", data, value, err)
		}
	})
}

func TestSplit(t *testing.T) {
	for _, c := range codecs {
		stream := c.frame(c.frame(nil, []byte("{first}")), []byte("{second}"))
		var got [][]byte
		for data := []byte(nil); len(stream) > 0; stream = stream[1:] {
			data = append(data, stream[0])
			body, rest, whole := c.split(data)
			if data = rest; whole {
				got = append(got, bytes.Clone(body))
				data = nil
			}
		}
		if fmt.Sprintf("%s", got) != "[{first} {second}]" {
			t.Errorf("%s: %s", c.name(), got)
		}
	}
}
