// Package environ reads the settings of a program from its environment, and says
// all that is wrong with them at once.
//
// It owns what a value may look like, and knows no program and no setting.
package environ
