// Package secret holds values that must never be printed, logged or marshalled
// by accident. It is a leaf.
package secret
