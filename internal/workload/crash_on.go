//go:build faultpoints

package workload

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// CrashPoint returns the Step of a Config: it kills the process with SIGKILL, once,
// at the point that the file named by FLOTTA_TEST_CRASH_FILE says, as
// point:count; count says which time the point is passed since the file is
// there. A point of * is any point. The file is removed before the end, so that
// the next process lives. Where there is a file of the same name with .passed at
// its end, the points are written to it as they are passed, a line each.
func CrashPoint() func(point string) {
	path := os.Getenv("FLOTTA_TEST_CRASH_FILE")
	if path == "" {
		return nil
	}
	var mu sync.Mutex
	passed := 0
	return func(point string) {
		mu.Lock()
		defer mu.Unlock()
		if list, err := os.OpenFile(path+".passed", os.O_APPEND|os.O_WRONLY, 0); err == nil {
			_, _ = list.WriteString(point + "\n")
			_ = list.Close()
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			passed = 0
			return
		}
		at, text, _ := strings.Cut(strings.TrimSpace(string(raw)), ":")
		count, err := strconv.Atoi(text)
		if err != nil {
			count = 1
		}
		if at != "*" && at != point {
			return
		}
		if passed++; passed == count {
			_ = os.Remove(path)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}
}
