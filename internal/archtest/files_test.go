package archtest

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"antiphon/hwmodel"
)

// maxLines is where a file has become two.
const maxLines = 600

var (
	generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
	sleeps    = regexp.MustCompile(`\btime\.Sleep\(`)
	// machinePath is a path of somebody's own machine.
	machinePath = regexp.MustCompile("(^|[\\s\"'`(=])/(work|home|Users|root)/[A-Za-z0-9._-]+")
	// registry is an address that builds must not depend on.
	registry = regexp.MustCompile(`https?://[A-Za-z0-9.:@-]*\b(artifactory|artifacts?|nexus|goproxy|registry)\b[A-Za-z0-9.:-]*`)
	globals  = regexp.MustCompile(`(?m)^func init\(\)`)
)

// eachFile calls f with every text file of the repository that people write.
func eachFile(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case ".git", "bin", "testdata":
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.IndexByte(text, 0) < 0 {
			rel, _ := filepath.Rel(root, path)
			f(rel, text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestGoFiles(t *testing.T) {
	eachFile(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".go") || generated.Match(text) {
			return
		}
		if n := bytes.Count(text, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines: split it (limit %d)", path, n, maxLines)
		}
		if globals.Match(text) {
			t.Errorf("%s has an init function", path)
		}
		if strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "archtest") && sleeps.Match(text) {
			t.Errorf("%s sleeps: wait for what you mean", path)
		}
	})
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	doc := map[string]bool{}
	eachFile(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return
		}
		dir := filepath.Dir(path)
		doc[dir] = doc[dir] || regexp.MustCompile(`(?m)^// (Package|Command) \S+`).Match(text)
	})
	for dir, ok := range doc {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func TestNothingOfOneMachine(t *testing.T) {
	eachFile(t, func(path string, text []byte) {
		if strings.HasPrefix(path, filepath.Join("internal", "archtest")) {
			return
		}
		for _, re := range []*regexp.Regexp{machinePath, registry} {
			if m := re.Find(text); m != nil {
				t.Errorf("%s mentions %q", path, bytes.TrimSpace(m))
			}
		}
	})
}

// TestLimitsNameEveryReason keeps docs/limits.md complete.
func TestLimitsNameEveryReason(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "limits.md"))
	if err != nil {
		t.Fatal(err)
	}
	for r := hwmodel.ReasonNone + 1; int(r) < hwmodel.ReasonCount; r++ {
		if !bytes.Contains(text, []byte("`"+r.String()+"`")) {
			t.Errorf("docs/limits.md does not name the reason %s", r)
		}
	}
}
