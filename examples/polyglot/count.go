package main

import (
	"encoding/json"
	"log"
	"os"
	"strings"
)

func main() {
	var msg struct{ Text string }
	if err := json.NewDecoder(os.Stdin).Decode(&msg); err != nil {
		log.Fatal(err)
	}
	counts := map[string]int{}
	for _, word := range strings.FieldsFunc(msg.Text, isNoLetter) {
		if len(word) >= 3 {
			counts[strings.ToLower(word)]++
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"counts": counts}); err != nil {
		log.Fatal(err)
	}
}

func isNoLetter(r rune) bool {
	return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r)
}
