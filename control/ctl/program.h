/* program runs another program in the operator's place: with the same environment, the same
 * terminal, and the signals obeyed that we ignore. */
#ifndef MORTISE_CONTROL_CTL_PROGRAM_H
#define MORTISE_CONTROL_CTL_PROGRAM_H

/* program_run starts argv[0] (looked for in PATH, unless there is a '/' in it) and waits for its
 * end. Returns its wait status, or -1 with errno: it did not start. */
int program_run(char *const *argv);

/* program_path is where one of ours is: beside this one, or else just its name, for PATH; owned. */
char *program_path(const char *name);

#endif
