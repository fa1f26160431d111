package render

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Reasons of a Problem.
const (
	ReasonConfigMapNotFound    = "ConfigMapNotFound"
	ReasonConfigMapKeyNotFound = "ConfigMapKeyNotFound"
	ReasonSecretNotFound       = "SecretNotFound"
	ReasonSecretKeyNotFound    = "SecretKeyNotFound"
	ReasonDeviceSetNotFound    = "DeviceSetNotFound"
	ReasonInvalidAllowList     = "InvalidAllowList"
	ReasonInvalidConfigMap     = "InvalidConfigMap"
	ReasonInvalidLogTarget     = "InvalidLogTarget"
	ReasonInvalidPodSpec       = "InvalidPodSpec"
	ReasonInvalidStorage       = "InvalidStorage"
	ReasonUnsupportedType      = "UnsupportedType"

	// ReasonInvalidManifest is not found by rendering, but by a reader whose
	// objects are files: one that concerns a workload cannot be read.
	ReasonInvalidManifest = "InvalidManifest"
)

// IsReason reports whether reason is one of a Problem, as opposed to a word of a
// device.
func IsReason(reason string) bool {
	switch reason {
	case ReasonConfigMapNotFound, ReasonConfigMapKeyNotFound, ReasonSecretNotFound, ReasonSecretKeyNotFound,
		ReasonDeviceSetNotFound, ReasonInvalidAllowList, ReasonInvalidConfigMap, ReasonInvalidLogTarget,
		ReasonInvalidPodSpec, ReasonInvalidStorage, ReasonUnsupportedType, ReasonInvalidManifest:
		return true
	}
	return false
}

// Problem is something that could not be rendered as it was asked for.
type Problem struct {
	Workload string // "" when it concerns the device
	Reason   string // one word in CamelCase, as conditions have it
	Message  string // for a person; holds names, never values
	// Kept says that the device still gets the workload as it was last
	// rendered without a problem.
	Kept bool
}

func notFound(kind, name string) *Problem {
	reason := ReasonConfigMapNotFound
	if kind == "Secret" {
		reason = ReasonSecretNotFound
	}
	return &Problem{Reason: reason, Message: fmt.Sprintf("%s %q does not exist", kind, name)}
}

func keyNotFound(kind, name, key string) *Problem {
	reason := ReasonConfigMapKeyNotFound
	if kind == "Secret" {
		reason = ReasonSecretKeyNotFound
	}
	return &Problem{Reason: reason, Message: fmt.Sprintf("%s %q has no key %q", kind, name, key)}
}

// sortedProblems returns the set in an order that is always the same.
func sortedProblems(set map[Problem]struct{}) []Problem {
	return slices.SortedFunc(maps.Keys(set), func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Workload, b.Workload),
			cmp.Compare(a.Reason, b.Reason),
			cmp.Compare(a.Message, b.Message),
		)
	})
}
