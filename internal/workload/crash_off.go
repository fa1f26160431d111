//go:build !faultpoints

package workload

// CrashPoint returns the Step of a Config: nil, because only binaries built
// with the tag faultpoints can be told to crash.
func CrashPoint() func(point string) { return nil }
