"""What every training binary needs: flags, files, runs that resume, the loop. Knows no task."""
