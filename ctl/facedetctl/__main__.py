from facedetctl.main import main

main()
