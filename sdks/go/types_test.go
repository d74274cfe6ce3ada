package emit

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"testing"
	"time"
)

type inner struct {
	X int `json:"x"`
}

type colour int

func (c colour) MarshalText() ([]byte, error) { return []byte(fmt.Sprintf("colour-%d", int(c))), nil }
func (c *colour) UnmarshalText(text []byte) error {
	_, err := fmt.Sscanf(string(text), "colour-%d", (*int)(c))
	return err
}

type Embedded struct {
	Deep   string
	Shadow string
}

type everything struct {
	Bool    bool
	Int8    int8
	Int64   int64
	Uint64  uint64
	Float32 float32
	Text    string `json:"text"`
	List    []inner
	Array   [2]int
	Map     map[string]inner
	Pointer *inner
	Any     any
	Colour  colour
	Number  json.Number
	Raw     json.RawMessage
	Big     *big.Int
	Quoted  int    `json:",string"`
	Omitted string `json:"omitted,omitempty"`
	Hidden  string `json:"-"`
	secret  int
	Embedded
	Shadow string
}

func everyValue() everything {
	return everything{
		true, -8, math.MinInt64, math.MaxUint64, 0.5, "text", []inner{{1}, {2}}, [2]int{3, 4}, map[string]inner{"a": {5}},
		&inner{6}, []any{int64(7), 8.5, "nine"}, 10, "11.5", json.RawMessage(`{"raw":12}`), big.NewInt(13), 14, "", "", 0,
		Embedded{"deep", ""}, "shadow",
	}
}

func TestStructs(t *testing.T) {
	for _, c := range codecs {
		in := everyValue()
		data, err := encode(c, nil, in)
		if err != nil {
			t.Fatal(c.name(), err)
		}
		var out everything
		if err := decode(c, data, &out); err != nil || !reflect.DeepEqual(in, out) {
			t.Errorf("%s: %+v, %v", c.name(), out, err)
		}
	}
}

func TestStructsAsEncodingJSON(t *testing.T) {
	in := everyValue()
	wanted, _ := json.Marshal(in)
	got, err := encode(jsonCodec{}, nil, in)
	if err != nil || string(got) != string(wanted) {
		t.Errorf("\n%s, %v\n%s", got, err, wanted)
	}
}

func TestFit(t *testing.T) {
	type target struct {
		Int   int64          `json:"int,omitempty"`
		Small uint8          `json:"small,omitempty"`
		Float float64        `json:"float,omitempty"`
		List  []int          `json:"list,omitempty"`
		Map   map[string]int `json:"map,omitempty"`
		Two   [2]int         `json:"two,omitempty"`
		Bytes []byte         `json:"bytes,omitempty"`
		Time  time.Time      `json:"time,omitempty"`
		Inner struct {
			Must int `json:"must"`
		} `json:"inner,omitempty"`
		Quoted int `json:"quoted,omitempty,string"`
	}
	for text, wanted := range map[string]string{
		`{"int":3.0,"small":255,"float":3,"INT":4,"other":[{}]}`:                  "",
		`{"int":null,"list":null,"inner":{"must":1},"map":{"a":1},"map":{"b":2}}`: "",
		`{"int":3.5}`:                     "message.int is a float, which does not fit int64",
		`{"small":256}`:                   "message.small is an integer of 3 digits, which does not fit uint8",
		`{"small":-1}`:                    "message.small is a negative integer of 1 digit, which does not fit uint8",
		`{"float":9007199254740993}`:      "message.float is an integer of 16 digits, which does not fit float64",
		`{"int":"3"}`:                     "message.int is text, which does not fit int64",
		`{"list":[1,2,"x"]}`:              "message.list[2] is text, which does not fit int",
		`{"map":{"a":true}}`:              "message.map.a is a bool, which does not fit int",
		`{"two":[1]}`:                     "message.two is a list of another length than [2]int",
		`{"two":[1,2,3]}`:                 "message.two is a list of another length than [2]int",
		`{"bytes":"AAAA"}`:                "message.bytes is text, which does not fit []uint8",
		`{"time":"2020-01-01T00:00:00Z"}`: "message.time is text, which does not fit time.Time",
		`{"inner":{}}`:                    `message.inner lacks "must"`,
		`{"inner":{"must":null}}`:         "message.inner.must is null, which does not fit int",
		`{"quoted":" 12\n"}`:              "",
		`{"quoted":"12 apples"}`:          "message.quoted is text, which does not fit int",
		`{"quoted":"null"}`:               "message.quoted is text, which does not fit int",
		`[]`:                              "message is a list, which does not fit emit.target",
	} {
		var got target
		err := decode(jsonCodec{}, []byte(text), &got)
		if fmt.Sprint(err) != wanted && !(err == nil && wanted == "") {
			t.Errorf("%s: %v", text, err)
		}
		if len(got.Map) > 1 {
			t.Errorf("%s: the last of a key counts: %v", text, got.Map)
		}
	}
}

func TestMessageThatIsNoMap(t *testing.T) {
	for text, wanted := range map[string]string{"[true]": "a list", "null": "null", "3": "an integer of 1 digit"} {
		err := decode(jsonCodec{}, []byte(text), new(Message))
		if fmt.Sprint(err) != "message is "+wanted+", which does not fit map[string]interface {}" {
			t.Error(err)
		}
	}
}

func TestInputs(t *testing.T) {
	type in struct {
		Need  int `json:"need"`
		Plain string
		May   *int   `json:"may"`
		Empty string `json:"empty,omitempty"`
	}
	integer, text := map[string]any{"type": "integer"}, map[string]any{"type": "string"}
	wanted := map[string]any{
		"required": []string{"need", "Plain"},
		"optional": []string{"may", "empty"},
		"properties": map[string]any{
			"need": integer, "Plain": text, "empty": text,
			"may": map[string]any{"anyOf": []any{integer, map[string]any{"type": "null"}}},
		},
	}
	if got := inputs(typeOf[in]()); !reflect.DeepEqual(got, wanted) {
		t.Error(got)
	}
	if got := inputs(typeOf[Message]()); got != nil {
		t.Error(got)
	}
}

// A node's result, told as a schema: what a type states, and nothing of what it leaves open.
func TestResultSchema(t *testing.T) {
	type node struct {
		Size  int64             `json:"size"`
		Byte  uint8             `json:"byte"`
		Score float32           `json:"score"`
		At    time.Time         `json:"at"`
		Raw   []byte            `json:"raw"`
		Names []string          `json:"names,omitempty"`
		Tags  map[string]bool   `json:"tags"`
		Up    *node             `json:"up"`
		Any   any               `json:"any"`
		Text  int               `json:"text,string"`
		More  map[string][3]int `json:"more"`
	}
	got, _ := json.Marshal(result(typeOf[node]()))
	wanted := `{"properties":{"any":{},"at":{"format":"date-time","type":"string"},` +
		`"byte":{"maximum":255,"minimum":0,"type":"integer"},` +
		`"more":{"additionalProperties":{"items":{"type":"integer"},"type":"array"},"type":"object"},` +
		`"names":{"items":{"type":"string"},"type":"array"},"raw":{"format":"binary","type":"string"},` +
		`"score":{"format":"double","type":"number"},` +
		`"size":{"maximum":9223372036854775807,"minimum":-9223372036854775808,"type":"integer"},` +
		`"tags":{"additionalProperties":{"type":"boolean"},"type":"object"},"text":{},"up":{}},` +
		`"required":["size","byte","score","at","raw","tags","up","any","text","more"],"type":"object"}`
	if string(got) != wanted {
		t.Error(string(got))
	}
	if result(typeOf[any]()) != nil {
		t.Error("any tells nothing")
	}
}
