package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "antiphon"

// pkg is what `go list -json` says about a package. Imports are of non-test
// files; Deps is their transitive closure.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func listPackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		list = append(list, p)
	}
}

// within reports whether path is one of the trees (written without the module's
// name) or below one.
func within(path string, trees ...string) bool {
	for _, tree := range trees {
		if tree = module + "/" + tree; path == tree || strings.HasPrefix(path, tree+"/") {
			return true
		}
	}
	return false
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// foreign reports whether path is neither ours nor of the standard library.
func foreign(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !ours(path) && strings.Contains(first, ".")
}

// rule forbids something to the packages it applies to; forbidden gets every
// direct import, or every dependency if deep is set.
type rule struct {
	says      string
	applies   func(path string) bool
	deep      bool
	forbidden func(path string) bool
}

func in(trees ...string) func(string) bool {
	return func(path string) bool { return within(path, trees...) }
}

func exactly(want string) func(string) bool {
	return func(path string) bool { return path == module+"/"+want }
}

func dependency(prefixes ...string) func(string) bool {
	return func(path string) bool {
		for _, p := range prefixes {
			if path == p || strings.HasPrefix(path, p+"/") {
				return true
			}
		}
		return false
	}
}

var rules = []rule{
	{"netstate imports nothing of ours", in("netstate"), true,
		func(p string) bool { return ours(p) && !within(p, "netstate") }},
	{"hwmodel imports nothing of ours", exactly("hwmodel"), true, ours},
	{"devices import hwmodel only", in("hwmodel/softpipe", "hwmodel/refpipe"), true,
		func(p string) bool {
			return ours(p) && p != module+"/hwmodel" && !within(p, "hwmodel/softpipe", "hwmodel/refpipe")
		}},
	{"below hwmodel nothing of ours but hwmodel", in("hwmodel/port", "hwmodel/remote", "hwmodel/hwtest"), true,
		func(p string) bool { return ours(p) && !within(p, "hwmodel") }},
	{"transport knows no agent, hostshim or hwmodel", in("transport"), true, in("agent", "hostshim", "hwmodel")},
	{"hostshim never knows hwmodel or agent", in("hostshim"), true, in("hwmodel", "agent")},
	{"agent never knows hostshim or bpf", in("agent"), true, in("hostshim", "bpf")},
	{"bpf imports cilium/ebpf only", in("bpf"), false, func(p string) bool {
		return ours(p) && !within(p, "bpf") ||
			foreign(p) && !dependency("github.com/cilium/ebpf", "golang.org/x/sys")(p)
	}},
	{"antiphond never links cilium/ebpf", in("cmd/antiphond"), true, dependency("github.com/cilium/ebpf")},
	{"antiphon-shim never links bbolt or softpipe", in("cmd/antiphon-shim"), true,
		dependency("go.etcd.io/bbolt", module+"/hwmodel/softpipe")},
	{"nobody imports sim or cmd", func(p string) bool { return !within(p, "sim", "cmd", "internal") }, false,
		in("sim", "cmd")},
	{"no daemon imports sim", in("cmd/antiphond", "cmd/antiphon-device", "cmd/antiphon-shim"), true, in("sim")},
}

func TestImportRules(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, r := range rules {
			if !r.applies(p.ImportPath) {
				continue
			}
			paths := p.Imports
			if r.deep {
				paths = p.Deps
			}
			for _, path := range paths {
				if path != p.ImportPath && r.forbidden(path) {
					t.Errorf("%s: %s has %s", r.says, p.ImportPath, path)
				}
			}
		}
	}
}
