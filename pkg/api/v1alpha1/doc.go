// Package v1alpha1 holds the Kubernetes API of flotta: the kinds of
// management.project-flotta.io/v1alpha1, as flotta v0.2 defined them, with their
// labels and finalizers.
//
// It owns the shape of the objects and nothing else: no defaults are applied
// here, nothing is read or written. Keys are frozen, the odd ones included
// (PlaybookExec, folder, owner, group, a CPU frequency that is a string);
// additions are optional fields only. It knows no other package of this
// repository, so that users can import it for their own tools.
//
// The comments that start with a plus sign are read by controller-gen, which
// derives the custom resource definitions and the deep copies from them.
//
// +kubebuilder:object:generate=true
// +groupName=management.project-flotta.io
package v1alpha1

//go:generate controller-gen object crd paths=. output:crd:dir=../../../config/crd/bases
