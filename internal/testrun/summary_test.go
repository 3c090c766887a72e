package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const events = `{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"pass","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Test":"TestTwo","Output":"    a_test.go:7: needs root\n"}
{"Action":"output","Package":"a","Test":"TestTwo","Output":"--- SKIP: TestTwo (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestTwo"}
{"Action":"output","Package":"a","Test":"TestThree","Output":"    a_test.go:9: one is not two\n"}
{"Action":"fail","Package":"a","Test":"TestThree"}
{"Action":"fail","Package":"a"}
{"Action":"build-output","ImportPath":"b","Output":"b.go:1: syntax error\n"}
{"Action":"fail","Package":"b"}
{"Action":"output","Package":"c","Test":"TestHang","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"c"}
{"Action":"skip","Package":"d"}
not an event
`
	var out bytes.Buffer
	s := newSummary(&out)
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	if err := s.close([]string{"race detector: no C compiler"}); err == nil {
		t.Error("close: no error although tests failed")
	}
	for _, want := range []string{
		"skipped    1: needs root", "one is not two", "syntax error", "test timed out",
		"not an event", "left out: race detector", "1 passed, 3 failed, 1 skipped",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, &out)
		}
	}
}

func TestNothingRan(t *testing.T) {
	if err := newSummary(&bytes.Buffer{}).close(nil); err == nil {
		t.Error("close: no error although nothing ran")
	}
}
